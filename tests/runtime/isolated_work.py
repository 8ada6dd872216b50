"""Work that the tests of isolation send to other processes: found there by its name in this module."""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import apicas
from apicas.tokens import Token


def tell(token: Token, *words: object) -> None:
    """Write a line into the test's named pipe."""
    with Path(token["input"]["pipe"]).open("w") as pipe:
        print(*words, file=pipe)


async def answers(token: Token) -> Any:
    """Do what the token says."""
    match token["input"]["end"]:
        case "output":
            token.put_attachment("log.txt", "hello")
            token["note"] = "changed"
            return {"process": os.getpid(), "session": os.getsid(0), "points": (1, 2)}
        case "retry":
            raise apicas.Retry("once more", after=300)
        case "fail":
            raise apicas.Fail("never", exit_code=7)
        case "release":
            raise apicas.Release(after=300)
        case "command":
            await apicas.run_command([sys.executable, "-c", "import sys; sys.exit(9)"], check=True)
        case "error":
            token["note"] = "changed before"
            raise LookupError("no such galaxy \udc80")
        case "nan":
            token["note"] = float("nan")
        case "exit":
            sys.exit(5)
        case "twice":
            async with asyncio.TaskGroup() as group:
                group.create_task(asyncio.sleep(0))
                raise apicas.Fail("in a group")
    return None


def plain(token: Token) -> str:
    """Run in a thread, there too."""
    return threading.current_thread().name


async def hang(token: Token) -> None:
    """Say who we are, and never end; but write into the token when cancelled."""
    token["note"] = "begun"
    tell(token, os.getpid())
    try:
        await asyncio.sleep(3600)
    finally:
        token["note"] = "cancelled"


def start_child() -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"])


async def hang_with_a_child(token: Token) -> None:
    """Start a process of our own, and never end."""
    child = start_child()
    tell(token, os.getpid(), child.pid)
    await asyncio.sleep(3600)


def wait_in_a_thread(token: Token) -> None:
    """A plain function that never ends."""
    tell(token, os.getpid())
    time.sleep(3600)


def ignore_term(token: Token) -> None:
    """Block the loop, deaf to every signal that one can be deaf to."""
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    tell(token, os.getpid())
    time.sleep(3600)


async def block_for_ever(token: Token) -> None:
    """The same on the loop."""
    ignore_term(token)


async def segfault(token: Token) -> None:
    """Read address 0."""
    ctypes.string_at(0)


def oom_score() -> int:
    return int(Path("/proc/self/oom_score_adj").read_text())


async def standing(token: Token) -> int:
    """Where we stand when the kernel looks for somebody to kill."""
    return oom_score()


async def no_answer(token: Token) -> None:
    """Close the connection to the pilot, as code does that makes a daemon."""
    os.closerange(3, 4096)


async def garbage(token: Token) -> None:
    """What a process says whose memory is damaged."""
    for descriptor in range(3, 4096):
        with suppress(OSError):
            os.write(descriptor, b"\xff" * 64)
    await asyncio.sleep(3600)


class Actor(apicas.RunActor):
    """An actor with a state, which is sent as it was before prepare_env."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.client = self.iterator.client  # type: ignore[attr-defined]
        self.calls = ["made"]

    async def prepare_env(self) -> None:
        self.calls.append("prepare_env")
        self.lock = threading.Lock()  # cannot be pickled

    async def prepare_run(self, token: Token) -> None:
        self.calls.append("prepare_run")

    async def process_token(self, token: Token) -> None:
        if token["input"].get("left behind"):
            await self.client.fetch("t")
        self.modifier.close(token)
        token["output"] = {"calls": self.calls, "process": os.getpid()}

    async def cleanup_run(self, token: Token) -> None:
        token["cleaned"] = True

    def cleanup_env(self) -> None:
        Path("cleaned_env").write_text(str(os.getpid()))


class Unprepared(apicas.RunActor):
    """Can be prepared in one process only."""

    async def prepare_env(self) -> None:
        os.mkdir("only-once")  # noqa: PTH102

    async def process_token(self, token: Token) -> int:
        return os.getpid()


class Fragile(apicas.RunActor):
    """Can be prepared only in the process that made it: elsewhere that kills."""

    deadly = signal.SIGSEGV

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.made_in = os.getpid()

    async def prepare_env(self) -> None:
        if os.getpid() != self.made_in:
            signal.raise_signal(self.deadly)

    async def process_token(self, token: Token) -> int:
        return os.getpid()


class OutOfMemory(Fragile):
    """The same, by the signal that the kernel sends when there is no memory left."""

    deadly = signal.SIGKILL


class Counted(apicas.RunActor):
    """Says where each token was worked, and leaves a file where it has cleaned up."""

    worked = 0
    prepared = 0

    async def prepare_env(self) -> None:
        self.prepared += 1

    async def process_token(self, token: Token) -> Any:
        self.worked += 1
        return {"process": os.getpid(), "worked": self.worked, "prepared": self.prepared, "siblings": siblings()}

    def cleanup_env(self) -> None:
        Path(f"cleaned.{os.getpid()}").touch()


def siblings() -> int:
    """How many processes like this one our pilot has."""
    found = 0
    for process in Path("/proc").glob("[1-9]*"):
        with suppress(OSError):  # it has ended meanwhile
            fields = (process / "stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
            is_ours = int(fields[1]) == os.getppid()
            found += is_ours and b"apicas._runtime.isolation.isolated" in (process / "cmdline").read_bytes()
    return found


async def crash_or_wait_for_it(token: Token) -> int:
    """Die; or wait for the death of the one that does."""
    if token["input"]["crash"]:
        os.mkdir("crashing")  # noqa: PTH102
        signal.raise_signal(signal.SIGSEGV)
    while "crashing" not in os.listdir() or siblings() > 1:  # noqa: PTH208
        await asyncio.sleep(0.01)
    return os.getpid()


async def say_where(token: Token) -> None:
    """Tell the test our process, and end."""
    print("worked", token.id)
    tell(token, os.getpid())


async def eats(token: Token) -> None:
    """Take memory, and keep it."""
    kept = bytearray(b"x") * 300_000_000
    await asyncio.sleep(3600)
    del kept


def takes_some(token: Token) -> None:
    """Take as much memory as the token says, and a little time."""
    taken = bytearray(b"x") * token["input"]["size"]
    until = time.process_time() + 0.1
    while time.process_time() < until:
        pass
    del taken


async def leaves(token: Token) -> None:
    """Leave processes in sessions of their own, one of them a command, and end as the token says."""
    pipe, leaver = token["input"]["pipe"], Path(__file__).with_name("leaver.py")
    command = [sys.executable, "-S", str(leaver), pipe, "end"]
    subprocess.run(command, check=True)  # noqa: ASYNC221 - as users write it
    if token["input"]["end"] == "done":
        return
    running = asyncio.ensure_future(apicas.run_command([sys.executable, "-S", str(leaver), pipe, "stay"]))
    if token["input"]["end"] == "crash":
        await asyncio.to_thread(Path(pipe + ".go").read_text)
        os._exit(3)
    await running


def _wait_for(token: Token) -> None:
    while not os.path.exists(token["input"]["go"]):  # noqa: PTH110
        time.sleep(0.01)


async def tells_and_blocks(token: Token) -> None:
    """Tell how far we are, and block the loop until we are told to go on."""
    token.progress(0.75, "there")
    _wait_for(token)


def tells_from_a_thread(token: Token) -> None:
    """The same from a thread."""
    token.progress(0.75, "there")
    _wait_for(token)


def prints(token: Token) -> None:
    """Print in the ways there are, and end as the token says."""
    asked = token["input"]
    print(asked["print"])
    print("error", asked["print"], file=sys.stderr)
    sys.stdout.flush()
    subprocess.run(["echo", "child", asked["print"]], check=True)
    if "go" in asked:
        _wait_for(token)
    if "attach" in asked:
        token.put_attachment("stdout.txt", asked["attach"])
    if "die" in asked:
        signal.raise_signal(signal.SIGSEGV)  # to this thread: it does not come back


def logs(token: Token) -> None:
    """Log a record for the token."""
    handler = apicas.TokenLogHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger = logging.getLogger("tests.worker")
    logger.addHandler(handler)
    logger.warning("from the worker")


THREADS_AT_THE_START = os.environ.get("OMP_NUM_THREADS")
"""What a library would see that is imported with the work."""


async def allotted(token: Token) -> dict[str, Any]:
    """What there is of the node for us."""
    assert token.allocation is not None
    return {
        "affinity": sorted(os.sched_getaffinity(0)),
        "cores": sorted(token.allocation.cores),
        "given": token.allocation.of("cores"),
        "threads": os.environ["OMP_NUM_THREADS"],
        "at the start": THREADS_AT_THE_START,
    }


async def signals_itself(token: Token) -> None:
    """Get what the batch system sends to the whole job."""
    os.kill(os.getpid(), signal.SIGUSR1)
    await asyncio.sleep(0)


async def where(token: Token) -> int:
    """The process that works it."""
    return os.getpid()


class Apart(apicas.RunActor):
    """Every token in a process of its own: the actor says so itself."""

    executor = "process"

    async def process_token(self, token: Token) -> int:
        return os.getpid()


class Choosy(apicas.RunActor):
    """Says it of each token."""

    def choose_executor(self, token: Token) -> Any:
        return token["how"]

    async def process_token(self, token: Token) -> int:
        return os.getpid()
