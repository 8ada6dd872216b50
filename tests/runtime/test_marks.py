"""Which processes are whose: decided from one look, so that nothing of a living pilot or a stranger is ever ended."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys

import pytest

from apicas._runtime.environment import boot_id
from apicas._runtime.processes import marks
from apicas._runtime.processes.marks import (
    Look,
    Mark,
    Process,
    carrying,
    end_all,
    is_dead,
    of_pilot,
    orphaned,
    parsed,
    tell,
)
from tests.runtime.processes import linux_only, lives

pytestmark = linux_only
OURS = Mark("b007", 100, 5, "secret", "", 3)
OTHERS = Mark("b007", 100, 5, "another", "", 3)


def process(pid: int, parent: int = 1, session: int | None = None, start: int = 50, *marks: Mark) -> Process:
    return Process(pid, parent, session or pid, start, 0, marks)


def pids(processes: list[Process]) -> list[int]:
    return [process.pid for process in processes]


def test_marks_are_read_as_they_were_written() -> None:
    assert parsed(str(OURS)) == (OURS,)
    assert parsed(marks.together(str(OTHERS), OURS)) == (OTHERS, OURS)
    assert marks.together("", OURS) == str(OURS)


@pytest.mark.parametrize("text", ["", "x", "a.b.c.d.e", "a.1.2.s", "a.1.2.s.j.3.4", ",,", "a.1..s.j.3"])
def test_what_is_no_mark_is_left_out(text: str) -> None:
    assert parsed(text) == ()
    assert parsed(f"{text},{OURS}") == (OURS,)


def test_with_a_marked_process_go_its_session_and_its_children() -> None:
    look = [
        process(10, 1, 10, 50, OURS),
        process(11, 1, 10),  # in its session, without an environment
        process(12, 11),  # a child of that one, in a session of its own
        process(13, 1, 12),  # in that session
        process(14, 1, 14, 50, OTHERS),
        process(15),
    ]
    assert pids(carrying(look, OURS.__eq__)) == [10, 11, 12, 13]


def test_a_mark_in_a_session_of_others_says_nothing_about_them() -> None:
    """As where somebody has copied an environment into a shell of theirs."""
    look = [process(10, 1, 10, 40), process(12, 10, 10, 60, OURS), process(11, 10, 10, 50), process(13, 12, 10, 70)]
    assert pids(carrying(look, OURS.__eq__)) == [12, 13]
    assert pids(of_pilot(look, OURS.pilot, set(), 0)) == [12, 13]


def test_a_session_that_was_registered_is_the_pilots_as_long_as_a_member_is_old_enough() -> None:
    look = [process(20, 1, 20, 50), process(21, 1, 20, 99), process(30, 1, 30, 99), process(40)]
    assert pids(of_pilot(look, OURS.pilot, {20, 30}, 60)) == [20, 21]
    assert pids(of_pilot(look, OURS.pilot, {20, 30}, 40)) == []


def test_only_the_marks_of_the_pilot_count() -> None:
    look = [process(10, 1, 10, 50, OTHERS, OURS), process(11, 1, 11, 50, OTHERS)]
    assert pids(of_pilot(look, OURS.pilot, set(), 0)) == [10]


def test_the_mark_of_a_living_pilot_makes_no_orphan() -> None:
    start = marks.start_of(os.getpid())
    assert start is not None
    is_orphaned = orphaned(boot_id())
    here = Mark(boot_id(), os.getpid(), start, "s", "", 1)
    assert not is_orphaned(here)
    assert is_orphaned(here._replace(start=start - 1))  # its process id is used again
    assert not is_orphaned(here._replace(start=start - 1, boot="other"))
    assert not is_orphaned(here._replace(start=0))
    assert not orphaned("")(here._replace(start=start - 1))


def test_a_zombie_is_dead_and_a_stopped_process_is_not() -> None:
    sleeper = subprocess.Popen(["sleep", "3600"])
    start = marks.start_of(sleeper.pid)
    assert start is not None
    sleeper.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, sleeper.pid, os.WSTOPPED)
    assert not is_dead(sleeper.pid, start)
    sleeper.kill()
    os.waitid(os.P_PID, sleeper.pid, os.WEXITED | os.WNOWAIT)
    assert is_dead(sleeper.pid, start)
    sleeper.wait()
    assert is_dead(sleeper.pid, start)


def test_without_descriptors_left_nobody_is_taken_for_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_arguments: object) -> int:
        raise OSError(24, "Too many open files")

    start = marks.start_of(os.getpid())
    assert start is not None
    monkeypatch.setattr(os, "open", fail)
    assert not is_dead(os.getpid(), start)
    assert not is_dead(os.getpid(), start + 1)


@pytest.fixture(params=["pidfd", "id"])
def signalled_by(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "id":
        monkeypatch.delattr(os, "pidfd_open")


def test_no_signal_goes_to_a_process_that_has_the_id_of_another(signalled_by: None) -> None:
    sleeper = subprocess.Popen(["sleep", "3600"])
    try:
        start = marks.start_of(sleeper.pid)
        assert start is not None
        assert not tell(process(sleeper.pid, start=start - 1), signal.SIGKILL)
        assert lives(sleeper.pid)
        assert tell(process(sleeper.pid, start=start), signal.SIGKILL)
        assert sleeper.wait() == -signal.SIGKILL
        assert not tell(process(sleeper.pid, start=start), signal.SIGKILL)
    finally:
        sleeper.kill()
        sleeper.wait()


def seen(environment: dict[str, str]) -> list[Process]:
    """A look at a process with such an environment."""
    with subprocess.Popen(
        [sys.executable, "-S", "-c", "print(flush=True); input()"],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()  # it runs its own program by now
        return [process for process in Look().take() if process.pid == child.pid]


def test_a_look_shows_marks_wherever_they_are_in_an_environment() -> None:
    (first,) = seen({marks.VARIABLE: str(OURS), "LATER": "x"})
    (last,) = seen({"FIRST": "x" * 100_000, "NOT_" + marks.VARIABLE: "no", marks.VARIABLE: str(OURS)})
    (none,) = seen({"NOT_" + marks.VARIABLE: str(OURS)})
    assert (first.marks, last.marks, none.marks) == ((OURS,), (OURS,), ())
    assert first.parent == os.getpid()
    assert first.session == os.getsid(0)
    assert first.resident > 1_000_000


def test_a_mark_counts_in_the_batch_job_in_which_it_was_made() -> None:
    """sbatch passes the environment on, mark included."""
    job = OURS._replace(job="77_array")
    for mark, environment, found in (
        (job, {"SLURM_JOB_ID": "77.array"}, (job,)),
        (job, {}, (job,)),  # as where a command hides the job from a program
        (job, {"SLURM_JOB_ID": "78"}, ()),
        (OURS, {"PBS_JOBID": "78"}, ()),
    ):
        assert seen({marks.VARIABLE: str(mark), **environment})[0].marks == found


def test_a_pilot_hands_on_the_marks_of_living_pilots_around_it(monkeypatch: pytest.MonkeyPatch) -> None:
    start = marks.start_of(os.getppid())
    assert start is not None
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    living = Mark(boot_id(), os.getppid(), start, "s", "77", 1)
    others = living._replace(start=start - 1), living._replace(job="76"), living._replace(boot="b007")
    monkeypatch.setenv(marks.VARIABLE, ",".join(map(str, (*others, living))))
    assert marks.inherited(boot_id()) == str(living)


def test_what_a_dead_pilot_has_left_is_spared_where_a_living_one_is_among_it() -> None:
    """As where a command had put a new pilot into the background, or `at` has started one later."""
    dead, alive = OURS, OURS._replace(pid=31, secret="living")
    look = [
        process(10, 1, 10, 50, dead),
        process(30, 1, 30, 50, dead),  # the shell that has started the living pilot
        process(31, 30, 30, 51, dead),
        process(32, 31, 32, 52, alive._replace(attempt=0)),  # its supervisor
        process(33, 1, 33, 53, alive),
        process(34, 31, 34, 53, dead),
        process(40, 1, 40, 50, dead._replace(attempt=0)),  # the dead one's supervisor, which has its own work to do
        process(41, 10, 41, 55),
    ]
    assert pids(marks.left_by_the_dead(look, lambda mark: mark.pilot == dead.pilot, "b007")) == [10, 41]


def test_a_look_that_keeps_marks_forgets_those_who_are_gone() -> None:
    look = Look(keeps=True)
    with subprocess.Popen(["sleep", "3600"], env={marks.VARIABLE: str(OURS), "PATH": os.environ["PATH"]}) as child:
        look.take()
        child.kill()
    look.take()
    assert look._kept is not None
    assert child.pid not in {pid for pid, _ in look._kept}


RESPAWNER = """
import os, signal

def respawn(number, frame):
    if not os.fork():
        os.setsid()
        os.write(1, b"again ")

signal.signal(signal.SIGTERM, respawn)
os.write(1, b"ready ")
while True:
    signal.pause()
"""


def test_processes_that_answer_a_signal_with_more_of_them_are_ended_too() -> None:
    mark = OURS._replace(secret=secrets.token_hex(8))  # another run of the tests may look at all processes, too
    with subprocess.Popen(
        [sys.executable, "-S", "-c", RESPAWNER],
        env={marks.VARIABLE: str(mark)},
        stdout=subprocess.PIPE,
        start_new_session=True,
    ) as child:
        assert child.stdout is not None
        assert child.stdout.read(6) == b"ready "
        look = Look()
        found = end_all(lambda: carrying(look.take(), mark.__eq__), grace=0.3, limit=30)
        assert len(found) > 1
        assert child.stdout.read().startswith(b"again")  # to its end: nobody is left who could write
