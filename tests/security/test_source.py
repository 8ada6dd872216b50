"""No code of ours turns data into code."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

import apicas

ROOT = Path(apicas.__file__).parent
MODULES = {
    "pickle", "cPickle", "_pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "jsonpickle", "yaml",
    "codeop", "multiprocessing", "concurrent.futures.process",
}  # fmt: skip
CALLS = {"eval", "exec", "compile", "__import__", "ProcessPoolExecutor"}
SHELLS = {"sh", "bash", "/bin/sh", "/bin/bash", "/usr/bin/env"}
SHELL_CALLS = {"create_subprocess_shell", "system", "popen", "getoutput", "getstatusoutput"}
# A pilot says to the child that it starts itself what the work is. Tokens come and go as JSON, and what the child says
# is not unpickled. A command runs in a shell where `shell` says so, and the supervisor of a pilot is a shell that knows
# its few lines from the start. PiCaS keeps its configuration as YAML: safe_load, which makes no objects, reads it. What
# `apicas completion` prints is for shells, by their names; it starts none.
ALLOWED = {
    ("cli/completion.py", "shell"),
    ("configuration/picas.py", "yaml"),
    ("_runtime/isolation/isolation.py", "pickle"),
    ("_runtime/isolation/isolation.py", "multiprocessing"),
    ("_runtime/isolation/isolated.py", "pickle"),
    ("_runtime/isolation/isolated.py", "multiprocessing"),
    ("_runtime/isolation/isolated.py", "unpickling"),
    ("_runtime/commands/running.py", "shell"),
    ("_runtime/processes/supervisor.py", "shell"),
}


def findings(path: str, text: str) -> set[tuple[str, str]]:
    return {(path, what) for node in ast.walk(ast.parse(text)) for what in _risks(node)}


def _risks(node: ast.AST) -> Iterator[str]:
    match node:
        case ast.Import(names=names):
            yield from _modules(alias.name for alias in names)
        case ast.ImportFrom(module=str(module)):
            yield from _modules([module])
        case ast.Call(func=function, keywords=keywords):
            name = getattr(function, "id", None)
            if name in CALLS:
                yield name
            if getattr(function, "attr", name) in SHELL_CALLS or any(_is_shell(keyword) for keyword in keywords):
                yield "shell"
        case ast.Constant(value=str(text)) if text in SHELLS:
            yield "shell"
        case ast.Attribute(value=ast.Name(id="pickle"), attr="load" | "loads" | "Unpickler"):
            yield "unpickling"
        case ast.Attribute(value=ast.Name(id="yaml"), attr=str(name)) if "load" in name and name != "safe_load":
            yield "unsafe YAML"


def _modules(names: Iterable[str]) -> Iterator[str]:
    for name in names:
        yield from (module for module in MODULES if f"{name}.".startswith(f"{module}."))


def _is_shell(keyword: ast.keyword) -> bool:
    return keyword.arg == "shell" and isinstance(keyword.value, ast.Constant) and keyword.value.value is True


def test_there_is_no_pickle_no_eval_and_no_shell_but_where_it_is_asked_for() -> None:
    paths = sorted(ROOT.rglob("*.py"))
    assert len(paths) > 50
    found = {each for path in paths for each in findings(path.relative_to(ROOT).as_posix(), path.read_text())}
    assert found <= ALLOWED
    assert ("_runtime/commands/running.py", "shell") in found


@pytest.mark.parametrize(
    "text",
    [
        "import pickle",
        "pickle.loads(x)",
        "from pickle import loads",
        "import yaml",
        "yaml.load(x)",
        "yaml.unsafe_load(x)",
        "from multiprocessing import Process",
        "import concurrent.futures.process",
        "def f(x):\n    return eval(x)",
        "exec('x')",
        "import marshal as m",
        "subprocess.run(x, shell=True)",
        "os.system(x)",
        "asyncio.create_subprocess_shell(x)",
        "run(['/bin/sh', '-c', x])",
    ],
)
def test_the_search_finds_what_it_is_for(text: str) -> None:
    assert findings("x.py", text)
