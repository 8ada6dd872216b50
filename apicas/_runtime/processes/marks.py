"""Marks: which processes are whose, told from /proc, whatever sessions and parents they have given themselves.

Every process that a pilot starts has a mark in its environment, which all that it starts inherits: the boot, the
pilot's process id and start time, a secret, and the number of the attempt. A pilot inside another's command adds its
own mark to the one that it has.

Rules:
- A pilot's process is what carries its mark, is in a session that it registered or that one of these has made, or has
  one of these for a parent.
- Only processes of our own user are looked at, and a mark counts in the batch job only in which it was made.
- What a dead pilot has left is spared where a living pilot is among it: it is that one's work too.
- A signal goes to a process by its pidfd, after a look that its start time is still the same.

The supervisor runs this file too, without the rest of apicas: nothing but small modules may be imported here.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Collection, Iterable
from typing import Final, NamedTuple

VARIABLE: Final = "APICAS_MARK"
PROCESSES: Final = "/proc"
JOB_VARIABLES: Final = (b"SLURM_JOB_ID", b"PBS_JOBID", b"LSB_JOBID")
"""Where batch systems tell their jobs who they are: Slurm, PBS, LSF."""
MAX_JOB: Final = 64
"""Characters of that."""
MAX_ENVIRONMENT: Final = 4_194_304
"""Bytes of an environment that are looked at: more than most systems allow."""
_CHUNK: Final = 8_192
_KERNEL_THREAD: Final = 0x0020_0000
"""In the flags of what is no process of a user's."""
_DEAD: Final = frozenset({b"Z", b"X", b"x"})
_NAME: Final = VARIABLE.encode()
_SEPARATOR: Final = ","
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
TICKS: Final = os.sysconf("SC_CLK_TCK")
"""Of the clock that start times are told in, per second."""

END_PAUSE: Final = 0.005
MAX_END_PAUSE: Final = 0.1
"""Seconds between two looks whether what had its KILL is gone."""


class Mark(NamedTuple):
    """Who started a process: a pilot, and for which of its attempts."""

    boot: str
    """What process ids are unique in."""
    pid: int
    start: int
    """The pilot's process, and when it started, in clock ticks since the boot."""
    secret: str
    job: str
    """The batch job that the pilot is in; "" for none. A process of another job is not the pilot's: `sbatch` and the
    like pass the environment on, mark included."""
    attempt: int
    """0 for the supervisor, which is nobody's to end."""

    def __str__(self) -> str:
        return f"{self.boot}.{self.pid}.{self.start}.{self.secret}.{self.job}.{self.attempt}"

    @property
    def pilot(self) -> tuple[str, int, int, str]:
        """Whose it is."""
        return self[:4]


class Process(NamedTuple):
    """A living process of our user, as one look shows it."""

    pid: int
    parent: int
    session: int
    start: int
    """When it started, in clock ticks since the boot: with the process id it names one process."""
    resident: int
    """Bytes of memory, shared ones included."""
    marks: tuple[Mark, ...] = ()
    """Its own, and those of the pilots around it."""

    @property
    def name(self) -> tuple[int, int]:
        """What no other process of this boot is called."""
        return self.pid, self.start


def parsed(text: str) -> tuple[Mark, ...]:
    """The marks in the variable's value; what is none is left out."""
    return tuple(mark for part in text.split(_SEPARATOR) if (mark := _mark(part)) is not None)


def _mark(text: str) -> Mark | None:
    fields = text.split(".")
    if len(fields) != len(Mark._fields):
        return None
    boot, pid, start, secret, job, attempt = fields
    try:
        return Mark(boot, int(pid), int(start), secret, job, int(attempt))
    except ValueError:
        return None


def together(outer: str, mark: Mark) -> str:
    """The variable's value for a process that is started by one which has `outer` itself."""
    return f"{outer}{_SEPARATOR}{mark}" if outer else str(mark)


# Looking. -------------------------------------------------------------------------------------------------------------


class Look:
    """Looks at all living processes of our user.

    Args:
        keeps: whether marks are read once only for each process, which is cheaper. A process is a copy of its parent
            for a moment, and has its parent's environment then: such a look may miss a mark for good.
    """

    def __init__(self, *, keeps: bool = False) -> None:
        self._kept: dict[tuple[int, int], tuple[Mark, ...]] | None = {} if keeps else None

    def take(self) -> list[Process]:
        """All of them, as far as they can be read."""
        names = os.listdir(PROCESSES)  # noqa: PTH208 - there are thousands, and the supervisor has no pathlib
        return self._read(process for name in names if (process := _process(name)) is not None)

    def _read(self, processes: Iterable[Process]) -> list[Process]:
        kept = self._kept
        if kept is None:
            return [process._replace(marks=_marks(_environment(process.pid))) for process in processes]
        found = []
        for process in processes:
            marks = kept.get(process.name)
            found.append(process._replace(marks=_marks(_environment(process.pid)) if marks is None else marks))
        self._kept = {process.name: process.marks for process in found}
        return found


def _marks(content: bytes) -> tuple[Mark, ...]:
    """The marks in an environment, without those that were made in another batch job."""
    content = b"\0" + content
    value = _value(content, _NAME)
    if not value:
        return ()
    job = _job(content)
    return tuple(mark for mark in parsed(value.decode("ascii", "replace")) if not job or mark.job == job)


def _value(content: bytes, name: bytes) -> bytes:
    """A variable of an environment that begins with a zero byte."""
    _, found, rest = content.partition(b"\0" + name + b"=")
    return rest.partition(b"\0")[0] if found else b""


def _job(content: bytes) -> str:
    for name in JOB_VARIABLES:
        value = _value(content, name)
        if value:
            return "".join(letter if letter.isalnum() else "_" for letter in value[:MAX_JOB].decode("ascii", "replace"))
    return ""


def own_job() -> str:
    """The batch job that this process is in, as marks have it; "" for none."""
    return _job(b"".join(b"\0%b=%b" % item for item in os.environb.items()))


def inherited(here: str) -> str:
    """The variable's value of this process, as far as it is of living pilots around it.

    Args:
        here: what process ids are unique in.
    """
    is_orphaned, job = orphaned(here), own_job()
    marks = parsed(os.environ.get(VARIABLE, ""))
    return _SEPARATOR.join(
        str(mark) for mark in marks if mark.boot == here and mark.job == job and not is_orphaned(mark)
    )


def _process(name: str) -> Process | None:
    """A process, without its marks; None if it does not live, or is somebody else's."""
    if not name.isdigit():
        return None
    try:
        if os.stat(f"{PROCESSES}/{name}").st_uid != os.geteuid():  # noqa: PTH116 - there are thousands
            return None
        fields = _fields(name)
    except OSError:
        return None
    if fields is None or int(fields[6]) & _KERNEL_THREAD:
        return None
    return Process(int(name), int(fields[1]), int(fields[3]), int(fields[19]), int(fields[21]) * _PAGE)


def _environment(pid: int) -> bytes:
    try:
        return _content(f"{PROCESSES}/{pid}/environ")
    except OSError:  # it ended meanwhile, or may not be looked into
        return b""


def _content(path: str) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        content = chunk = os.read(descriptor, _CHUNK)
        while len(chunk) >= 4096 and len(content) < MAX_ENVIRONMENT:  # the kernel may give less than was asked for
            chunk = os.read(descriptor, _CHUNK)
            content += chunk
    finally:
        os.close(descriptor)
    return content


def start_of(pid: int) -> int | None:
    """When a living process started, in clock ticks since the boot; None if it does not live, or does not tell."""
    try:
        fields = _fields(pid)
    except OSError:
        return None
    return None if fields is None else int(fields[19])


def _fields(pid: int | str) -> list[bytes] | None:
    """What the kernel tells about a process, from its state on; None if it does not live.

    Raises:
        OSError: it cannot be read.
    """
    # The second field is the program's name in brackets, and may hold blanks and brackets of its own.
    fields = _content(f"{PROCESSES}/{pid}/stat").rpartition(b")")[2].split()
    return None if len(fields) < 22 or fields[0] in _DEAD else fields


# Whose they are. ------------------------------------------------------------------------------------------------------


def carrying(processes: Collection[Process], is_wanted: Callable[[Mark], bool]) -> list[Process]:
    """Those with such a mark, and all that belongs to them."""
    return _with_theirs(processes, {process.pid for process in processes if any(map(is_wanted, process.marks))})


def of_pilot(
    processes: Collection[Process], pilot: tuple[str, int, int, str], sessions: Collection[int], held_at: int
) -> list[Process]:
    """All that a pilot has started, and all that belongs to them.

    Args:
        processes: one look.
        pilot: whose marks count.
        sessions: those that it has registered: what is in one of them belongs to it, even without an environment.
        held_at: a time when these were certainly still the registered ones, in clock ticks since the boot. The number
            of a session stays taken as long as it has a member. So one that is as old as that proves it for all; where
            there is none, it may be another session by now.
    """
    proven = {process.session for process in processes if process.session in sessions and process.start <= held_at}
    return _with_theirs(
        processes,
        {
            process.pid
            for process in processes
            if process.session in proven or any(mark.pilot == pilot for mark in process.marks)
        },
    )


def left_by_the_dead(processes: Collection[Process], is_orphaned: Callable[[Mark], bool], here: str) -> list[Process]:
    """What dead pilots have left, without living pilots, what these have started, and what has started them.

    Args:
        processes: one look.
        is_orphaned: see `orphaned`.
        here: what process ids are unique in.
    """
    pilots = {
        mark.pid for process in processes for mark in process.marks if mark.boot == here and not is_orphaned(mark)
    }
    spared = _with_ancestors(processes, pilots | {os.getpid()})
    spared |= {process.pid for process in _with_theirs(processes, spared)}
    left = carrying(processes, lambda mark: mark.attempt > 0 and is_orphaned(mark))
    return [process for process in left if process.pid not in spared]


def _with_ancestors(processes: Collection[Process], pids: set[int]) -> set[int]:
    """Processes, and who started them as far as that carries marks: beyond, it is nobody's business here."""
    parents = {process.pid: process.parent for process in processes if process.marks}
    found = set(pids)
    for pid in pids:
        while (pid := parents.get(pid, 0)) in parents and pid not in found:
            found.add(pid)
    return found


def _with_theirs(processes: Collection[Process], roots: set[int]) -> list[Process]:
    """Processes, with all in the sessions that are theirs, and all that these have for children.

    A session is theirs if its oldest member is one of them: whoever else is in it was started by them, since nobody
    can enter a session. A mark in a session that is older was carried there by somebody, and says nothing about others.
    """
    oldest: dict[int, Process] = {}
    for process in processes:
        known = oldest.setdefault(process.session, process)
        if (process.start, process.pid != process.session) < (known.start, known.pid != known.session):
            oldest[process.session] = process
    found, before = roots, -1
    while len(found) != before:
        before = len(found)
        found = found | {
            process.pid for process in processes if process.parent in found or oldest[process.session].pid in found
        }
    return [process for process in processes if process.pid in found]


def orphaned(here: str) -> Callable[[Mark], bool]:
    """What tells whether a mark is of a pilot of this boot that is dead, for certain.

    Args:
        here: what process ids are unique in; "" where that is not known, and so nothing else is.
    """
    known: dict[tuple[int, int], bool] = {}

    def is_orphaned(mark: Mark) -> bool:
        if not here or mark.boot != here or mark.pid <= 0 or mark.start <= 0:
            return False
        name = mark.pid, mark.start
        if name not in known:
            known[name] = is_dead(*name)
        return known[name]

    return is_orphaned


def is_dead(pid: int, start: int) -> bool:
    """Whether a process has ended: there is none of that id, a zombie, or one that started at another time."""
    try:
        os.kill(pid, 0)
        fields = _fields(pid)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):  # not ours to see, or no descriptor left to look: one cannot know
        return False
    return fields is None or int(fields[19]) != start


# Ending. --------------------------------------------------------------------------------------------------------------


def tell(process: Process, number: int) -> bool:
    """Send a signal to a process, and to no other that has its id by now; whether it got it."""
    try:
        descriptor = os.pidfd_open(process.pid)
    except AttributeError:  # an old system: the look before has to do
        return _tell_by_id(process, number)
    except OSError as error:
        return _tell_by_id(process, number) if _is_refused(error) else False
    try:
        if start_of(process.pid) != process.start:
            return False
        signal.pidfd_send_signal(descriptor, number)
    except OSError:  # it ended meanwhile, or runs as somebody else by now
        return False
    finally:
        os.close(descriptor)
    return True


def _is_refused(error: OSError) -> bool:
    """Whether a sandbox or an old kernel has no pidfds; else the process has ended."""
    return not isinstance(error, ProcessLookupError)


def _tell_by_id(process: Process, number: int) -> bool:
    if start_of(process.pid) != process.start:
        return False
    try:
        os.kill(process.pid, number)
    except OSError:
        return False
    return True


def _not_dead(processes: Iterable[Process]) -> list[Process]:
    return [process for process in processes if not is_dead(process.pid, process.start)]


def end_all(find: Callable[[], Collection[Process]], *, grace: float, limit: float) -> list[Process]:
    """End processes, and what they start meanwhile: TERM, and KILL until none is found any more.

    Args:
        find: a new look at them.
        grace: seconds between TERM and KILL; 0 for KILL at once.
        limit: seconds after which those that do not die, because they hang in the kernel, are given up.

    Returns:
        Those that were found, in the order in which they were.
    """
    found: dict[tuple[int, int], Process] = {}
    asked: set[tuple[int, int]] = set()
    since = time.monotonic()
    pause = END_PAUSE
    # A second look for those that were just forking; and one that is on its way out shows no mark any more.
    while living := find() or (find() or _not_dead(found.values()) if found else ()):
        found.update((process.name, process) for process in living)
        spent = time.monotonic() - since
        if spent >= grace + limit:
            break
        for process in living:
            if spent >= grace:
                tell(process, signal.SIGKILL)
            elif process.name not in asked:
                tell(process, signal.SIGTERM)
                tell(process, signal.SIGCONT)  # a stopped process takes TERM only when it goes on
                asked.add(process.name)
        time.sleep(pause)
        pause = min(2 * pause, MAX_END_PAUSE)
    return list(found.values())
