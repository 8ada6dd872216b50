"""Ask a real JavaScript engine: one process of node for a whole batch of values."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterable
from typing import Any

import pytest

needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="node, a JavaScript engine, is not on the PATH")


def ask_node(body: str, values: Iterable[Any]) -> list[Any]:
    """What a JavaScript function body answers for each value, which it knows as `value`.

    Args:
        body: statements with a `return`.
        values: JSON values; one a line goes to node, one a line comes back.
    """
    program = f"""
        const answer = (value) => {{ {body} }};
        const lines = require("fs").readFileSync(0, "utf8").split("\\n").filter(Boolean);
        process.stdout.write(lines.map((line) => JSON.stringify(answer(JSON.parse(line)))).join("\\n"));
    """
    lines = "\n".join(json.dumps(value) for value in values)
    done = subprocess.run(
        ["node", "--stack-size=4000", "-e", program],
        input=lines,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return [json.loads(line) for line in done.stdout.split("\n")]


def listed_by(cases: Iterable[tuple[str, Any]]) -> list[list[Any]]:
    """The keys that CouchDB map functions emit, each for its document; none where one throws, as in CouchDB."""
    return ask_node(
        """
        const keys = [];
        const emit = (key) => keys.push(key);
        try { eval(`(${value[0]})`)(value[1]); } catch (error) { return error instanceof TypeError ? [] : ["?"]; }
        return keys;
        """,
        cases,
    )
