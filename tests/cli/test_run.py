"""`apicas run`: what it runs, how it ends, and what is seen of it."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import apicas as library
from apicas._runtime.reports import Report
from apicas.cli.forecast import Forecast
from apicas.cli.run_display import LINE_INTERVAL, _Lines, clock, summary
from apicas.cli.running import exit_code_of
from tests.cli.program import Events, Program

WORK = '''
import asyncio
import os
import threading
from pathlib import Path

import apicas


def tell(text):
    with open("started", "w") as file:
        file.write(f"{text}\\n")


async def square(token):
    return token["input"] ** 2


def plain(token):
    return token["input"] + 1


class Doubles(apicas.RunActor):
    async def process_token(self, token):
        return token["input"] * 2


async def fail(token):
    raise ValueError("line one\\nline two \\x1b[31m")


async def hang(token):
    tell(token.id)
    await asyncio.sleep(3600)


async def finish(token):
    """Ends when it is told to, which the test does after the pilot has begun to drain."""
    tell(token.id)
    while not Path("go").exists():
        await asyncio.sleep(0.01)


def stuck(token):
    tell(token.id)
    threading.Event().wait()


NUMBER = 5
'''


@pytest.fixture(autouse=True)
def work(apicas: Program) -> None:
    apicas.write("work.py", WORK)


@pytest.fixture(autouse=True)
def _forget_modules(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Each test imports its own `work`."""
    import sys

    before, path = set(sys.modules), list(sys.path)
    yield
    for name in set(sys.modules) - before:
        if name in {"work", "broken", "clauses"}:
            del sys.modules[name]
    sys.path[:] = path


def push(program: Program, number: int = 3) -> None:
    assert program("push", "--format", "jsonl", stdin="".join(f"{n}\n" for n in range(number))).code == 0


def tokens(program: Program, view: str) -> list[Any]:
    async def read() -> list[Any]:
        async with library.connect(f"sqlite:///{program.directory}/apicas.db") as client:
            return [row.document for row in await client.view(view, include_docs=True)]

    return asyncio.run(read())


# What it runs. -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "outputs"),
    [
        ("work:square", [0, 1, 4]),
        ("work:plain", [1, 2, 3]),
        ("work:Doubles", [0, 2, 4]),
        ("work.py:square", [0, 1, 4]),
        ("./work.py:Doubles", [0, 2, 4]),
    ],
)
def test_a_function_or_an_actor(apicas: Program, target: str, outputs: list[int]) -> None:
    push(apicas)
    result = apicas("run", target, "--workers", "2")
    assert (result.code, result.err) == (0, "")
    assert re.fullmatch(r"3 done in \d+\.\d s \(.* tokens/s\): no more tokens\n", result.out)
    assert sorted(token["output"] for token in tokens(apicas, "done")) == outputs


def test_a_command(apicas: Program) -> None:
    push(apicas)
    result = apicas("run", "-w", "2", "--", "echo", "--workers", "{input}")
    assert (result.code, result.err) == (0, "")

    async def read() -> list[bytes]:
        async with library.connect(f"sqlite:///{apicas.directory}/apicas.db") as client:
            return [await client.get_attachment(row.id or "", "stdout.txt") for row in await client.view("done")]

    assert sorted(asyncio.run(read())) == [b"--workers 0\n", b"--workers 1\n", b"--workers 2\n"]


def test_tokens_say_themselves_where_they_run(apicas: Program) -> None:
    apicas.write("work.py", "import os\ndef work(token):\n    return os.getpid()\n")
    lines = '{"_id": "a", "how": "auto"}\n{"_id": "b", "how": "process"}\n{"_id": "c"}\n{"_id": "d", "how": "gpu"}\n'
    assert apicas("push", "--format", "jsonl", stdin=lines).code == 0
    result = apicas("run", "work.py:work", "--executor-field", "how")
    assert result.out.startswith("3 done, 1 failed"), result.err
    assert "token d: " in result.err
    assert "executor is auto or process, not 'gpu'" in result.err

    async def read() -> list[object]:
        async with library.connect(f"sqlite:///{apicas.directory}/apicas.db") as client:
            return [(await client.fetch(name))["output"] for name in "abc"]

    here, apart, unsaid = asyncio.run(read())
    assert here == unsaid != apart


def test_what_a_command_takes_too_much_of_memory_ends_it(apicas: Program) -> None:
    push(apicas)
    eats = f"{sys.executable} -c 'x = bytearray(200_000_000); import time; time.sleep(60)'"
    result = apicas("run", "--max-token-memory", "100M", "--max-tokens", "1", "--shell", "--", eats)
    assert result.out.startswith("0 done, 1 failed"), result.err
    assert "limit 0.10 GB" in result.err
    assert apicas("run", "--max-token-memory", "much", "work:plain").code == 2


def test_a_command_gets_what_its_token_asks_for(apicas: Program) -> None:
    lines = '{"_id": "one"}\n{"_id": "two", "ncpus": 2}\n{"_id": "big", "ncpus": 4096}\n'
    assert apicas("push", "--format", "jsonl", stdin=lines).code == 0
    options = ("--resources", "cores=2", "--request-fields", "cores=ncpus", "--no-pin")
    result = apicas("run", *options, "--shell", "--", 'echo "$OMP_NUM_THREADS" > {_id}')
    assert result.code == 0, result.err
    assert result.out.startswith("2 done, 1 left to others in ")
    assert "it asks for 4096 cores, and this node has 2 cores (token big)" in result.err
    assert [(apicas.directory / name).read_text() for name in ("one", "two")] == ["1\n", "2\n"]


def test_what_the_batch_job_has_no_time_for_is_left(apicas: Program) -> None:
    assert apicas("push", "--format", "jsonl", stdin='{"time_request": "1h"}\n{"input": 3}\n').code == 0
    result = apicas("run", "work:plain", "--workers", "1", "--walltime", "50:00")
    assert result.code == 0, result.err
    assert "1 done, 1 left to others in " in result.out
    assert "in 0:50:00 (given)" in result.err
    assert "it takes 3600 s, and 29" in result.err


def test_resources_that_make_no_sense_are_said_before_anything_is_claimed(apicas: Program) -> None:
    push(apicas)
    result = apicas("run", "work:plain", "--resources", "cores=all")
    assert (result.code, apicas.status()["todo"]) == (2, 3)
    assert "cores: 'all' is no whole number" in result.error


def test_a_line_for_the_shell(apicas: Program) -> None:
    push(apicas)
    assert apicas("run", "--shell", "--", 'echo {input} > "out-"{input}').code == 0
    assert sorted(path.name for path in apicas.directory.glob("out-*")) == ["out-0", "out-1", "out-2"]


def test_views_in_order_and_a_limit(apicas: Program) -> None:
    async def add() -> None:
        async with library.connect(f"sqlite:///{apicas.directory}/apicas.db") as client:
            await client.add_view(library.View("Urgent/todo", library.TokenState.TODO, library.field("urgent") == 1))
            await client.upload([{"input": 1}, {"input": 2, "urgent": 1}, {"input": 3}])

    asyncio.run(add())
    arguments = ("--view", "Urgent/todo", "--view", "todo", "--max-tokens", "1", "--claim-ahead", "0", "-w", "1")
    assert apicas("run", "work:square", *arguments).code == 0
    assert [token["input"] for token in tokens(apicas, "done")] == [2]


def test_failed_tokens_do_not_change_the_exit_code_and_each_is_one_line(apicas: Program) -> None:
    push(apicas, 2)
    result = apicas("run", "work:fail", "--max-scrub", "1")
    assert result.code == 0
    assert "0 done, 2 failed, 2 scrubbed" in result.out
    lines = result.err.splitlines()
    assert len(lines) == 4
    assert all(line.endswith(r"ValueError: line one\nline two \x1b[31m") for line in lines)


def test_a_command_that_fits_one_of_the_tokens_is_run(apicas: Program) -> None:
    """Also where it is the last, behind many that are odd."""
    odd = "".join(f'{{"_id": "a{number:02}"}}\n' for number in range(12))
    apicas("push", stdin=f'{odd}{{"_id": "z", "name": "x"}}')
    result = apicas("run", "--", "echo", "{name}")
    assert (result.code, "1 done, 12 failed" in result.out) == (0, True)


def test_a_token_or_two_that_a_command_does_not_fit_fail(apicas: Program) -> None:
    push(apicas, 2)
    assert "0 done, 2 failed" in apicas("run", "--", "echo", "{name}").out


def test_a_time_limit_ends_a_token(apicas: Program, started: Events) -> None:
    push(apicas, 1)
    result = apicas("run", "work:hang", "--max-token-time", "0.1s")
    assert (result.code, "1 failed" in result.out) == (0, True)
    assert "time limit of 0.1 s" in result.err


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("work", "no MODULE:NAME"),
        ("work.py", "a command comes after --"),
        ("nowhere:square", "there is no module 'nowhere'"),
        ("nowhere/work.py:square", "there is no file"),
        ("work:nothing", "it has tell, square, plain, Doubles"),
        ("work:NUMBER", "but int"),
        ("work:Path", "Path is no apicas.RunActor"),
        ("broken:x", "ZeroDivisionError: division by zero ("),
        ("clauses:x", "cannot be imported"),
    ],
)
def test_what_cannot_be_run_is_one_line(apicas: Program, target: str, reason: str) -> None:
    push(apicas)
    apicas.write("broken.py", "\n1 / 0\n")
    apicas.write("clauses.py", "def f(:\n")
    result = apicas("run", target)
    assert (result.code, result.out) == (2, "")
    assert reason in result.error
    assert apicas.status()["todo"] == 3


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--"], "no command after --"),
        (["work:square", "--", "echo"], "a pilot does one thing"),
        (["--", "./no-such-program", "{input}"], "there is no program"),
        (["--", "echo", "{input"], "brace"),
        (["--", "echo", "{id}"], "its id is {_id}; so it is with all 3 tokens that were looked at"),
        (["--shell", "--", "echo {inptu}"], "did you mean {input}?"),
        (["--shell", "work:square"], "are for a command after --"),
        (["--outputs", "*.fits", "work:square"], "are for a command after --"),
        (["--outputs", "../x", "--", "true"], "outside the work directory"),
        (["--keep", "sometimes", "--", "true"], "never, failed, always"),
        (["work:square", "--view", "Nowhere/todo"], "no view Nowhere/todo"),
        (["work:square", "--lock-timeout", "1s"], "at least 10"),
    ],
)
def test_a_plan_that_cannot_work_is_told_before_a_token_is_claimed(
    apicas: Program, arguments: list[str], reason: str
) -> None:
    push(apicas)
    result = apicas("run", *arguments)
    assert (result.code, result.out) == (2, "")
    assert reason in result.error
    assert apicas.status()["todo"] == 3


def test_the_verbose_log_has_a_line_for_each_record(apicas: Program) -> None:
    push(apicas, 1)
    result = apicas("run", "work:square", "-vv")
    assert result.code == 0
    assert all(re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d [A-Z]+ ", line) for line in result.err.splitlines())
    assert " DEBUG claimed token " in result.err


def test_a_traceback_in_the_log_is_a_part_of_its_line(capfd: pytest.CaptureFixture[str], apicas: Program) -> None:
    from apicas.cli import logs

    for verbosity, expected in (
        (0, "ERROR it broke: ValueError: invalid literal for int() with base 10: 'x'"),
        (2, r"\nTraceback"),
    ):
        logs.configure(verbosity)
        try:
            int("x")
        except ValueError:
            logging.getLogger("apicas").exception("it broke")
        (line,) = capfd.readouterr().err.splitlines()
        assert expected in line


# How it ends. ------------------------------------------------------------------------------------------------------


def start(program: Program, *arguments: str) -> subprocess.Popen[str]:
    return program.start("run", *arguments)


def read_until(process: subprocess.Popen[str], text: str) -> None:
    assert process.stderr is not None
    while text not in process.stderr.readline():
        assert process.poll() is None


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_hands_running_tokens_back_after_the_grace_period(
    apicas: Program, started: Events, number: signal.Signals
) -> None:
    push(apicas, 5)
    process = start(apicas, "work:hang", "--workers", "2", "--grace", "0")
    started.wait(2)
    process.send_signal(number)
    result = apicas.finish(process)
    assert result.code == 4, result.err
    assert result.out.startswith("0 done, 2 released")
    assert number.name in result.out
    assert apicas.status()["todo"] == 5
    assert all(token["scrub_count"] == 0 for token in tokens(apicas, "todo"))


def test_a_signal_lets_running_tokens_finish_and_starts_no_others(apicas: Program, started: Events) -> None:
    push(apicas, 5)
    process = start(apicas, "work:finish", "--workers", "2", "--grace", "1h")
    started.wait(2)
    process.send_signal(signal.SIGTERM)
    read_until(process, "draining")
    (apicas.directory / "go").touch()
    assert apicas.finish(process).code == 4
    counts = apicas.status()
    assert (counts["done"], counts["todo"]) == (2, 3)


def test_a_second_signal_ends_at_once(apicas: Program, started: Events) -> None:
    push(apicas, 2)
    process = start(apicas, "work:hang", "--workers", "2", "--grace", "1h")
    started.wait(2)
    process.send_signal(signal.SIGTERM)
    read_until(process, "draining")
    process.send_signal(signal.SIGTERM)
    assert apicas.finish(process).code == 5
    assert apicas.status()["todo"] == 2


def test_work_in_a_thread_does_not_hold_up_the_end(apicas: Program, started: Events) -> None:
    push(apicas, 1)
    process = start(apicas, "work:stuck", "--workers", "1", "--grace", "0")
    started.wait()
    process.send_signal(signal.SIGTERM)
    result = apicas.finish(process)
    assert result.code == 4, result.err
    assert apicas.status()["todo"] == 1


def test_a_signal_leaves_no_subprocess(apicas: Program, started: Events) -> None:
    push(apicas, 2)
    script = "sleep 3600 & echo $$ $! > started; wait"
    process = start(apicas, "--workers", "2", "--grace", "0", "--", "sh", "-c", script)
    pids = [int(pid) for line in started.wait(2) for pid in line.split()]
    assert len(pids) == 4
    process.send_signal(signal.SIGTERM)
    result = apicas.finish(process)
    assert result.code == 4, result.err
    assert apicas.status()["todo"] == 2
    assert not [pid for pid in pids if is_running(pid)]


def is_running(pid: int) -> bool:
    """Whether a process exists and is no zombie that waits for some init to take notice."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in {"Z", "X"}
    except FileNotFoundError:
        return False


def test_what_a_killed_pilot_held_is_worked_by_the_next(apicas: Program, started: Events) -> None:
    push(apicas, 2)
    process = start(apicas, "work:hang", "--workers", "2")
    started.wait(2)
    process.kill()
    apicas.finish(process)
    assert apicas.status()["locked"] == 2
    result = apicas("run", "work:square")
    assert (result.code, apicas.status()["done"]) == (0, 2)


@pytest.mark.parametrize(
    ("signals", "held", "code"), [(0, 0, 0), (0, 3, 0), (1, 0, 4), (1, 1, 5), (2, 0, 5), (3, 0, 5)]
)
def test_the_exit_code_says_how_it_ended(signals: int, held: int, code: int) -> None:
    assert exit_code_of(Report(signals=signals, held=held, failed=7)) == code


# What is seen of it. -----------------------------------------------------------------------------------------------


def test_a_forecast_counts_down_between_two_looks() -> None:
    forecast = Forecast()
    assert forecast.seconds(Report()) is None
    forecast.count(100, Report())
    report = Report(done=10, running=4, seconds=2.0)
    forecast.note(report)
    assert (forecast.left(report), forecast.own_rate) == (90, 5.0)
    assert forecast.seconds(report) == 18.0


def test_a_forecast_knows_that_others_work_too() -> None:
    forecast = Forecast()
    forecast.count(1000, Report())
    report = Report(done=10, seconds=10.0)
    forecast.note(report)
    forecast.count(500, report)
    assert (forecast.own_rate, forecast.pool_rate) == (1.0, 50.0)
    assert forecast.seconds(report) == 10.0


def test_tokens_that_end_in_bursts_make_no_rate_that_jumps() -> None:
    forecast = Forecast()
    rates: list[float] = []
    left: list[float] = []
    for second in range(1, 301):  # five workers, three seconds for each token
        report = Report(done=5 * (second // 3), running=5, seconds=float(second))
        forecast.note(report)
        if second % 7 == 0:
            forecast.count(500 - report.done - 5, report)
        if second > 60:
            rates.append(forecast.own_rate)
            left.append(forecast.seconds(report) or 0.0)
    assert all(1.5 < rate < 1.8 for rate in rates)
    assert all(abs(seconds - (500 - 5 * (second // 3)) / (5 / 3)) < 20 for second, seconds in enumerate(left, 61))


def test_what_a_pilot_holds_in_stock_is_left_and_is_no_other_pilot_s_work() -> None:
    forecast = Forecast()
    forecast.count(300, Report())
    report = Report(done=5, running=5, held=6, seconds=5.0)
    forecast.note(report)
    forecast.count(289, report)
    assert (forecast.left(report), forecast.own_rate, forecast.pool_rate) == (295, 1.0, 1.0)
    later = Report(done=10, running=5, held=5, seconds=8.0)
    assert forecast.left(later) == 290


def test_a_rate_forgets_what_was_long_ago() -> None:
    forecast = Forecast()
    for second in range(1, 201):
        forecast.note(Report(done=100 * min(second, 100), seconds=float(second)))
    assert 0 < forecast.own_rate < 2


def test_of_work_that_takes_hours_the_rate_is_known_all_the_time() -> None:
    forecast = Forecast()
    rates = []
    for minute in range(1, 60 * 6):  # ten workers, an hour for each token
        forecast.note(Report(done=10 * (minute // 60), running=10, seconds=60.0 * minute))
        if minute >= 60:
            rates.append(forecast.own_rate * 3600)
    assert all(4.9 < rate <= 10 for rate in rates)


def test_the_rate_of_all_is_told_where_others_work_too() -> None:
    forecast = Forecast()
    forecast.count(1000, Report())
    report = Report(done=10, seconds=10.0)
    forecast.note(report)
    forecast.count(500, report)
    assert summary(report, forecast).endswith("500 left, 1.0/s of 50.0/s, ETA 0:00:10")


def test_the_line_says_what_counts() -> None:
    forecast = Forecast(waiting=100)
    report = Report(done=1234, running=8, failed=2, scrubbed=1, seconds=100.0)
    forecast.note(report)
    forecast.count(100, report)
    assert summary(report, forecast) == "1,234 done, 8 running, 2 failed, 1 scrubbed, 108 left, 12.4/s, ETA 0:00:09"


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0:00:00"), (3725, "1:02:05"), (400_000, "5 days")])
def test_times_are_shown_short(seconds: float, text: str) -> None:
    assert clock(seconds) == text


def test_plain_lines_come_seldom_and_ever_more_so(capfd: pytest.CaptureFixture[str]) -> None:
    lines = _Lines(Forecast())
    for quarter in range(4 * 3600):
        lines.show(Report(seconds=quarter / 4))
    written = capfd.readouterr().err.splitlines()
    assert written[0].startswith("apicas: 0 done, 0 running")
    assert 60 < len(written) < 3600 / LINE_INTERVAL / 8
    assert all(line.isprintable() for line in written)


def test_a_process_without_a_terminal_writes_no_control_characters(apicas: Program) -> None:
    push(apicas, 1)
    result = apicas.finish(start(apicas, "work:square"))
    assert result.code == 0
    assert (result.out + result.err).replace("\n", "").isprintable()


def test_nobody_reads_on(apicas: Program) -> None:
    push(apicas, 1)
    read, write = os.pipe()
    os.close(read)
    process = apicas.start("status", stdout=write)
    os.close(write)
    result = apicas.finish(process)
    assert (result.code, result.err) == (1, "")


def test_files_of_a_command_are_moved_and_a_failed_ones_directory_is_kept(apicas: Program) -> None:
    """In the working directory's `results` and `work`; `apicas status` says where the directory is."""
    apicas("push", "--id-field", "name", "--format", "jsonl", stdin='{"name": "a", "n": 1}\n{"name": "b", "n": 0}\n')
    line = 'echo "$APICAS_FIELD_n" > made; test "$APICAS_FIELD_n" = 1'
    apicas(
        *("run", "--workers", "1", "--workdir", "work", "--keep", "failed", "--outputs", "made"),
        *("--outputs-to", "results", "--", "/bin/sh", "-c", line),
    )
    assert (apicas.directory / "results/a/made").read_text() == "1\n"
    assert not (apicas.directory / "results/b").exists()
    assert (apicas.directory / "work/b/1/made").read_text() == "0\n"
    assert f"files     {apicas.directory}/work/b/1" in apicas("status", "b").out
