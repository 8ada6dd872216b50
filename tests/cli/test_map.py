"""`apicas map`: a command for each line, to the end, with a memory."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from apicas.cli.mapping import State
from tests.cli.program import ROOT, Program

ODD_LINES = ["plain", "two words", "'quoted'", '"double"', "é ü 漢", "{}", "{input}", "-n", "$HOME `id`", "a\\b", "*"]


def pools(apicas: Program) -> list[Path]:
    """What is remembered."""
    return sorted((apicas.directory / ".apicas").glob("*.db"))


def lines_of(apicas: Program, *lines: str, name: str = "inputs.txt") -> str:
    apicas.write(name, "".join(f"{line}\n" for line in lines))
    return name


def test_a_command_for_each_line(apicas: Program) -> None:
    """One argument stays one argument, whatever is in it."""
    result = apicas("map", lines_of(apicas, *ODD_LINES), "--keep-order", "--", "printf", "<%s>\\n", "{}")
    assert result.code == 0, result.err
    assert result.out == "".join(f"<{line}>\n" for line in ODD_LINES)
    assert f"{len(ODD_LINES)} done in" in result.err
    assert len(pools(apicas)) == 1


def test_without_a_placeholder_the_line_is_the_last_argument(apicas: Program) -> None:
    result = apicas("map", "--", "printf", "<%s> <%s>\\n", "first", stdin="a b\n\nc\n")
    assert sorted(result.out.splitlines()) == ["<first> <a b>", "<first> <c>"]
    (pool,) = pools(apicas)
    assert pool.name.startswith("stdin-")


def test_fields_of_a_table(apicas: Program) -> None:
    apicas.write("stars.csv", "name,mass\nVega,2.1\nSol,1\n")
    result = apicas("map", "stars.csv", "-k", "--", "echo", "{name}:{mass}")
    assert result.out == "Vega:2.1\nSol:1\n", result.err


@pytest.mark.parametrize("command", [["echo", "{}"], ["echo"], ["echo", "{input}", "{mass}"]])
def test_a_table_has_no_line_but_fields(apicas: Program, command: list[str]) -> None:
    apicas.write("stars.csv", "name,mass\nVega,2.1\nSol,1\n")
    result = apicas("map", "stars.csv", "--", *command)
    assert (result.code, result.out) == (2, "")
    assert result.error == "apicas: stars.csv has no {}, but fields: write {name}, {mass}"
    assert apicas("map", "stars.csv", "-k", "--", "echo", "{mass}").out == "2.1\n1\n"


def test_a_line_for_the_shell(apicas: Program) -> None:
    result = apicas("map", lines_of(apicas, "a", "$(touch no)"), "-k", "--shell", "--", "echo {} | tr a-z A-Z")
    assert result.out == "A\n$(TOUCH NO)\n"
    assert not (apicas.directory / "no").exists()


def test_bytes_come_out_as_they_are(apicas: Program) -> None:
    command = ["map", lines_of(apicas, "x"), "--", "printf", "\\377\\000%s", "{}"]
    done = subprocess.run(
        [sys.executable, "-m", "apicas", *command],
        cwd=apicas.directory,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        check=True,
        timeout=100,
    )
    assert done.stdout == b"\xff\x00x"


FLAKY = "echo tried {} >> log; if test -e good-{}; then echo did {}; else echo no {} >&2; exit 3; fi"


def test_what_is_done_stays_done_and_what_failed_is_tried_again(apicas: Program) -> None:
    """With --resume; lines that were added are done as well."""
    command = ["map", lines_of(apicas, "a", "b", "c"), "-k", "--shell", "--", FLAKY]
    apicas.write("good-a", "")
    apicas.write("good-c", "")
    first = apicas(*command)
    assert (first.code, first.out) == (1, "did a\ndid c\n")
    assert "no b\n" in first.err
    assert "line 2 failed: the shell command: exit code 3: no b" in first.err
    assert "--resume" in first.err
    refused = apicas(*command)
    assert (refused.code, refused.out) == (2, "")
    assert "(2 done, 1 error): --resume goes on, --again begins anew" in refused.error
    apicas.write("good-b", "")
    apicas.write("good-d", "")
    lines_of(apicas, "a", "b", "c", "d")
    second = apicas("map", "--resume", *command[1:])
    assert (second.code, second.out) == (0, "did b\ndid d\n"), second.err
    third = apicas("map", "--resume", *command[1:])
    assert (third.code, third.out) == (0, "")
    assert "nothing to do: all lines are done" in third.err
    assert sorted((apicas.directory / "log").read_text().split("\n")[:-1]) == [
        "tried a",
        "tried b",
        "tried b",
        "tried c",
        "tried d",
    ]
    again = apicas("map", "--again", *command[1:])
    assert (again.code, again.out) == (0, "did a\ndid b\ndid c\ndid d\n")


def test_a_line_that_is_no_longer_there_is_told(apicas: Program) -> None:
    name = lines_of(apicas, "a", "b")
    assert apicas("map", name, "--", "true").code == 0
    lines_of(apicas, "a", "changed")
    result = apicas("map", name, "--resume", "-k", "--", "true")
    assert result.code == 0
    assert "of the earlier run, no longer in inputs.txt: 1 line;" in result.err


def test_lines_that_come_in_between_leave_what_is_done_done(apicas: Program) -> None:
    """Also of lines that are there more than once."""
    command = ["-k", "--", "echo"]
    name = lines_of(apicas, "b", "b", "d")
    assert apicas("map", name, *command).out == "b\nb\nd\n"
    lines_of(apicas, "a", "b", "c", "b", "b", "d")
    result = apicas("map", name, "--resume", *command)
    assert (result.code, sorted(result.out.split())) == (0, ["a", "b", "c"]), result.err


def test_two_at_a_time_are_refused(apicas: Program) -> None:
    name = lines_of(apicas, "a")
    assert apicas("map", name, "--state", "s.db", "--", "true").code == 0
    with State(apicas.directory / "s.db").held():
        result = apicas("map", name, "--state", "s.db", "--again", "--", "true")
    assert result.code == 2
    assert "another apicas map is at work" in result.error


def test_what_is_not_done_at_the_end_of_a_batch_job_is_told(apicas: Program) -> None:
    """It drains before the end, and the exit code says that not all is done."""
    result = apicas("map", lines_of(apicas, "a"), "--walltime", "1s", "--", "true")
    assert (result.code, result.out) == (1, "")
    assert "with --resume goes on" in result.err


def test_a_long_output_is_cut_and_that_is_told(apicas: Program) -> None:
    result = apicas("map", lines_of(apicas, "x"), "--", "sh", "-c", "head -c 20000000 /dev/zero | tr '\\0' x; true")
    assert result.code == 0
    assert "line 1 printed more than 10 MB: the middle is left out" in result.err
    assert len(result.out) < 11_000_000


def test_another_command_is_another_memory(apicas: Program) -> None:
    name = lines_of(apicas, "a")
    assert apicas("map", name, "--", "echo", "one").out == "one a\n"
    assert apicas("map", name, "--", "echo", "two").out == "two a\n"
    assert len(pools(apicas)) == 2
    assert apicas("map", name, "--state", "mine.db", "--", "echo", "one").out == "one a\n"
    assert (apicas.directory / "mine.db").exists()


def test_retries(apicas: Program) -> None:
    """Only the last attempt is shown."""
    twice = "echo x >> {}.count; echo attempt $(wc -l < {}.count); test $(wc -l < {}.count) = 2"
    result = apicas("map", lines_of(apicas, "a"), "--retries", "1", "--shell", "--", twice)
    assert (result.code, result.out) == (0, "attempt 2\n"), result.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["inputs.txt"], "write a command after --"),
        (["inputs.txt", "--", "no-such-program"], "there is no program 'no-such-program'"),
        (["missing.txt", "--", "true"], "missing.txt: No such file"),
        (["inputs.txt", "--resume", "--again", "--", "true"], "give one of them"),
        (["inputs.txt", "--format", "jsonl", "--", "true"], "bad line"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_line(apicas: Program, arguments: list[str], said: str) -> None:
    lines_of(apicas, "{no json")
    result = apicas("map", *arguments)
    assert (result.code, result.out) == (2, "")
    assert said in result.err
    assert not pools(apicas)


def test_no_lines_are_nothing_to_do(apicas: Program) -> None:
    result = apicas("map", lines_of(apicas), "--", "true")
    assert (result.code, result.out) == (0, "")
    assert "there are no lines" in result.err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_break_and_a_resume_do_every_line_once(apicas: Program, number: signal.Signals) -> None:
    """What was at work is done anew."""
    name = lines_of(apicas, *(f"{line}" for line in range(6)))
    os.mkfifo(apicas.directory / "begun")
    line = "if test {} = 3 && test ! -e go; then echo x > begun; exec sleep 3600; fi; echo {} >> done"
    command = ["map", name, "-j", "1", "--grace", "0", "--shell", "--", line]
    process = subprocess.Popen(
        [sys.executable, "-m", "apicas", *command],
        cwd=apicas.directory,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    with (apicas.directory / "begun").open("r+b", buffering=0) as pipe:  # so that opening it waits for nobody
        ready, _, _ = select.select([pipe], [], [], 30)
        if not ready:
            process.kill()
        assert ready, process.communicate()
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    if number == signal.SIGINT:
        assert process.returncode == 4
        assert "with --resume goes on" in errors
    apicas.write("go", "")
    result = apicas("map", "--resume", *command[1:])
    assert result.code == 0, result.err
    done = sorted((apicas.directory / "done").read_text().split())
    # A result takes a moment to be written: what ended just before a SIGKILL is done anew.
    assert (sorted(set(done)) if number == signal.SIGKILL else done) == ["0", "1", "2", "3", "4", "5"]
