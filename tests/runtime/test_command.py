"""CommandRunner: a command as the work of a token."""

from __future__ import annotations

import asyncio
import os
from base64 import b64decode
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anyio
import pytest

from apicas._runtime.commands.command import CommandRunner
from apicas._runtime.commands.options import CommandOptions
from apicas.exceptions import CommandError, ConfigError, InvalidTokenError
from apicas.tokens import Token
from tests.runtime.processes import Fifo


def make_token(**fields: Any) -> Token:
    return Token({"_id": "t1", "type": "token", "lock": 1_700_000_000, "done": 0, "exit_code": "", **fields})


def attached(token: Token) -> dict[str, bytes]:
    attachments = token.document.get("_attachments", {})
    return {name: b64decode(attachment["data"]) for name, attachment in attachments.items()}


async def run_shell(line: str, token: Token, *arguments: str) -> None:
    await CommandRunner(["/bin/sh", "-c", line, "sh", *arguments])(token)


async def test_a_command_that_ends_well_sets_the_exit_code_and_attaches_its_output() -> None:
    token = make_token(input={"n": 5})
    await run_shell('echo "got $1"; echo warned >&2', token, "{input.n}")
    assert token.exit_code == 0
    assert attached(token) == {"stdout.txt": b"got 5\n", "stderr.txt": b"warned\n"}


async def test_no_output_is_no_attachment() -> None:
    token = make_token()
    await run_shell("exit 0", token)
    assert token.attachments == []


async def test_the_output_of_an_earlier_attempt_does_not_pass_for_this_ones() -> None:
    token = make_token()
    token.put_attachment("stderr.txt", b"failed")
    await run_shell("exit 0", token)
    assert attached(token) == {"stderr.txt": b""}


async def test_a_failure_is_told_with_its_last_words() -> None:
    token = make_token()
    with pytest.raises(CommandError, match=r"^/bin/sh: exit code 4: it broke$") as caught:
        await run_shell("echo half; echo it broke >&2; exit 4", token)
    assert caught.value.exit_code == token.exit_code == 4
    assert attached(token) == {"stdout.txt": b"half\n", "stderr.txt": b"it broke\n"}


async def test_what_it_wrote_is_attached_when_it_is_cut(tmp_path: Path) -> None:
    fifo = Fifo(tmp_path / "fifo")
    token = make_token()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run_shell, 'echo so far; echo > "$1"; sleep 3600', token, str(fifo.path))
        await fifo.line()
        tasks.cancel_scope.cancel()
    fifo.close()
    assert attached(token) == {"stdout.txt": b"so far\n"}
    assert token.exit_code == ""


async def test_a_command_that_does_not_exist_fails_the_token() -> None:
    with pytest.raises(CommandError) as caught:
        await CommandRunner(["no-such-program"])(make_token())
    assert caught.value.exit_code == 127


async def test_a_token_without_the_field_fails_alone() -> None:
    with pytest.raises(InvalidTokenError, match="the command needs input"):
        await CommandRunner(["echo", "{input}"])(make_token())


async def test_a_line_for_the_shell_gets_values_as_words() -> None:
    token = make_token(input="a  b; $(id)")
    await CommandRunner("printf '%s|' {input} x{_id} | tr b B", CommandOptions(shell=True))(token)
    assert attached(token) == {"stdout.txt": b"a  B; $(id)|xt1|"}


async def test_the_environment_has_the_tokens_id_and_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("APICAS_POOL", "APICAS_PASSWORD", "PICAS_PASSWORD"):
        monkeypatch.setenv(name, "https://me:hush@couch.example")
    monkeypatch.setenv("OTHER", "kept")
    token = make_token()
    await CommandRunner(["env"], CommandOptions(env={"MORE": "added", "APICAS_TOKEN_ID": "other"}))(token)
    output = attached(token)["stdout.txt"].decode().splitlines()
    assert {"OTHER=kept", "MORE=added", "APICAS_TOKEN_ID=t1", f"PATH={os.environ['PATH']}"} <= set(output)
    assert not [line for line in output if "hush" in line]


async def test_the_limits_of_time_and_success_are_the_pilots() -> None:
    token = make_token()
    await CommandRunner(["sleep", "0.05"], CommandOptions(timeout=0.0, check=True))(token)
    assert token.exit_code == 0


async def test_many_tokens_share_one_runner(tmp_path: Path) -> None:
    runner = CommandRunner(["/bin/sh", "-c", "pwd; exit $1", "sh", "{input}"], CommandOptions(cwd=tmp_path))
    tokens = [make_token(input=number) for number in range(20)]
    await asyncio.gather(*(runner(token) for token in tokens), return_exceptions=True)
    assert [token.exit_code for token in tokens] == list(range(20))
    assert {attached(token)["stdout.txt"] for token in tokens} == {f"{tmp_path}\n".encode()}


@pytest.mark.parametrize(
    ("command", "shell"),
    [("ls", False), (["ls"], True), ([], False), ("", True), (["echo", "{"], False), ("'{x}'", True)],
)
def test_a_command_that_makes_no_sense_is_refused_at_once(command: Sequence[str] | str, shell: bool) -> None:
    with pytest.raises(ConfigError):
        CommandRunner(command, CommandOptions(shell=shell))
