"""Nothing that somebody else wrote reaches a terminal as it is: every line of ours is shown as the text that it is."""

from __future__ import annotations

import json
import logging
import re
import unicodedata
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import StringIO
from threading import Thread
from typing import Any

import pytest
from rich.console import Console

from apicas.cli import logs, opening
from apicas.cli.terminal import MAX_LINE, one_line, printable_json
from tests.cli.program import Program, Result
from tests.cli.test_terminal import Start, terminal  # noqa: F401 - a fixture

EVIL = "\x1b]52;c;cm0gLXJm\x07\x1b[2J\x9b31m\x90q\x07\u202e\u2066\u200b\u2028\x7f\r\b\t"
RAW = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]")


def assert_harmless(*texts: str) -> None:
    for text in texts:
        found = RAW.search(text)
        assert found is None, repr(text[max(0, found.start() - 60) : found.start() + 60])


def assert_all_harmless(result: Result) -> Result:
    assert_harmless(result.out, result.err)
    return result


# The one function that all lines pass. --------------------------------------------------------------------------------


def test_a_line_is_what_it_seems() -> None:
    shown = one_line(f"a{EVIL}\nb\ud800\U000e0001")
    assert shown.isprintable()
    assert shown.startswith("a\\x1b]52;c;")
    assert "\\u202e" in shown
    assert "\\ud800" in shown
    shown.encode()


@pytest.mark.parametrize(
    "character", [chr(number) for number in [*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x202E, 0xFEFF]]
)
def test_no_control_character_passes(character: str) -> None:
    assert one_line(f"a{character}b").isprintable()
    assert json.loads(printable_json(json.dumps(f"a{character}b", ensure_ascii=False).encode())) == f"a{character}b"
    assert printable_json(json.dumps(character, ensure_ascii=False).encode()).isprintable()


@pytest.mark.parametrize("text", ["plain", "Grüße, 世界 «naïve» e\u0301", "日本語\u3000です", "😀"])
def test_people_s_text_is_left_alone(text: str) -> None:
    assert one_line(text) == text


def test_marks_are_not_heaped_up() -> None:
    assert sum(map(unicodedata.combining, one_line("a" + "\u0301" * 1000))) <= 4 * 230


def test_a_line_has_an_end() -> None:
    assert len(one_line("x" * 40_000_000)) < MAX_LINE + 50
    assert "39,980,000 more characters" in one_line("x" * 40_000_000)


def test_records_of_any_logger_are_lines(capfd: pytest.CaptureFixture[str]) -> None:
    handler = logs.LineHandler(tracebacks=True)
    try:
        raise ValueError(EVIL)
    except ValueError as error:
        trace = (ValueError, error, error.__traceback__)
    for name in ("apicas.claims", "mine"):
        handler.handle(logging.LogRecord(name, logging.ERROR, "", 1, "token %s\n%s", (EVIL, "x"), trace))
    err = capfd.readouterr().err
    assert len(err.splitlines()) == 2
    assert_harmless(err)


# Commands. ------------------------------------------------------------------------------------------------------------

NAMES = [f"a{EVIL}z", "x\nY", "\u202egnp.exe", "m" + "\u0301" * 50]


def push(apicas: Program, **fields: Any) -> None:
    lines = [json.dumps({"_id": name, "input": EVIL, EVIL: EVIL, "hostname": EVIL, **fields}) for name in NAMES]
    assert_all_harmless(apicas("push", stdin="\n".join(lines)))
    assert apicas.status()["total"] == len(NAMES)


@pytest.mark.parametrize("verbose", [(), ("-v",), ("-vv",)])
def test_run(apicas: Program, verbose: tuple[str, ...]) -> None:
    push(apicas)
    apicas.write("work.py", f"def work(token):\n    raise ValueError(token.input * 3 + chr(10) + {EVIL!r})\n")
    result = assert_all_harmless(apicas("run", "work:work", "--max-scrub", "1", *verbose))
    assert result.code == 0
    assert "\\x1b]52" in result.err
    assert apicas.status()["error"] == len(NAMES)


def test_run_of_a_command(apicas: Program) -> None:
    push(apicas)
    result = assert_all_harmless(apicas("run", "--", "sh", "-c", 'printf "%s" "$0" >&2; exit 3', "{input}"))
    assert result.code == 0
    assert apicas.status()["error"] == len(NAMES)
    for arguments in (["{nothing}"], [EVIL]):
        assert_all_harmless(apicas("reset", "error", "--yes"))
        assert_all_harmless(apicas("run", "--", "true", *arguments))


def test_every_other_command(apicas: Program) -> None:
    push(apicas)
    for arguments in (
        ["status"],
        ["status", "--json"],
        ["reset", "todo", "--dry-run"],
        ["reset", f"X{EVIL}/y", "--yes"],
        ["delete", *NAMES, f"none{EVIL}", "--dry-run"],
        ["delete", "--id", f"none{EVIL}", "--yes"],
        ["delete", NAMES[0], "--yes"],
        ["push", f"none{EVIL}"],
        ["push", "--set", EVIL],
        ["push", "--format", EVIL],
        ["run", f"none{EVIL}:x"],
        ["run", EVIL],
        ["run", "work:work", "--grace", EVIL],
        ["run", "work:work", "--workers", EVIL],
        ["run", "work:work", "--view", f"X{EVIL}/y"],
        ["status", f"a\n{EVIL}"],
        [f"a\n{EVIL}"],
        ["status", f"--x{EVIL}\n"],
        ["status", "--pool", f"sqlite:///{EVIL}/x.db".replace("\x00", "")],
        ["init", "--pool", f"sqlite:///new{EVIL}.db"],
        ["status", "--pool", f"http://{EVIL}@h/db"],
        ["status", "--pool", EVIL],
    ):
        assert_all_harmless(apicas(*arguments))


def test_bad_lines_and_names_of_files(apicas: Program) -> None:
    name = f"in{EVIL.replace('/', '')}.jsonl"
    apicas.write(
        name, "\n".join([json.dumps({f"_{EVIL}": 1}), f"{{{EVIL}", f'"{EVIL}"', json.dumps({"_id": f"_{EVIL}"})])
    )
    result = assert_all_harmless(apicas("push", name))
    assert (result.code, "4 bad lines" in result.err) == (2, True)
    apicas.write("table.csv", f"a{EVIL},a{EVIL}\n1,2\n")
    assert_all_harmless(apicas("push", "table.csv"))


def test_an_internal_error(apicas: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bug's traceback may quote a token."""

    def broken(*arguments: Any, **options: Any) -> None:
        raise RuntimeError(f"token {EVIL}\n{EVIL}")

    monkeypatch.setattr(opening, "configured", broken)
    result = assert_all_harmless(apicas("status"))
    assert result.code == 1
    assert "RuntimeError" in result.err


class _Evil(BaseHTTPRequestHandler):
    """A server whose answers are hostile."""

    status = 500

    def do_GET(self) -> None:
        body = json.dumps({"error": EVIL, "reason": f"{EVIL}\n{EVIL}"}).encode()
        self.send_response(self.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Location", "http://thief/\xa0\x9b31m")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_PUT = do_HEAD = do_GET  # noqa: N815 - the names that the base class looks for

    def log_message(self, *arguments: Any) -> None:
        """Be quiet."""


@pytest.fixture
def evil() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Evil)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/pool"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("status", [302, 400, 401, 403, 404, 409, 500, 503])
def test_answers_of_a_server(apicas: Program, evil: str, status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_Evil, "status", status)
    monkeypatch.setattr(opening, "PATIENCE", 0.0)
    for command in (["status"], ["init"], ["run", "--", "true"]):
        result = assert_all_harmless(apicas(*command, "--pool", evil))
        assert result.code != 0
        assert "Traceback" not in result.err


# Displays. ------------------------------------------------------------------------------------------------------------


def test_a_moving_display(apicas: Program, terminal: Start) -> None:  # noqa: F811
    """On a terminal, where there are escapes of our own, none of a token's or a file's is among them."""
    name = "in\x1b]52;c;x\x07[bold]\u202e.jsonl"
    apicas.write(name, "\n".join(json.dumps({"input": EVIL}) for _ in range(3000)))
    screen = terminal("push", name)
    assert screen.finish() == 0
    assert "pushed 3,000 tokens" in screen.seen
    apicas.write("work.py", "def work(token):\n    raise ValueError(token.input)\n")
    apicas("delete", "todo", "--yes")
    push(apicas)
    running = terminal("run", "work:work")
    assert running.finish() == 0
    for seen in (screen.seen, running.seen):
        for raw in ("\x1b]", "\x9b", "\x07", "\u202e", "\u2066", "\x90"):
            assert raw not in seen


def test_rich_shows_what_it_is_given_as_text() -> None:
    """What the displays rely on: a line of ours has no markup and no escapes that rich would take for its own."""
    screen = Console(file=StringIO(), force_terminal=True, width=200)
    from rich.text import Text

    screen.print(Text(one_line(f"[red]{EVIL}")))
    assert isinstance(screen.file, StringIO)
    assert "[red]\\x1b]52" in screen.file.getvalue()
