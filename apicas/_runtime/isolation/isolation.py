"""Isolation: one token's hooks in a process of their own, so that what kills it kills nothing else.

Rules:
- The work is sent once, pickled, as it was before prepare_env; the iterator, the client and the keeper stay behind.
- Tokens go there and come back as JSON. Nothing that comes from that process is unpickled.
- A process that ends without an answer is the crash of the token that it has taken. Before that it is nobody's.
- It counts what it has taken in a file that both have open, and which is read only when it gives no answer: a word for
  each token would wake the pilot when the work begins, and take the processor from it.
- Whatever ends the wait (the time limit, a cancellation, its death), `leave` and `end` leave nothing of the process.

A process works many tokens, one after the other: see apicas._runtime.isolation.isolated for what it hears and says, and
apicas._runtime.isolation.pool for how long it is kept.
"""

from __future__ import annotations

import asyncio
import io
import os
import pickle
import re
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from signal import SIGCONT, SIGKILL, SIGTERM, SIGUSR1, Signals
from types import FunctionType, MethodType
from typing import IO, TYPE_CHECKING, Any, Final, cast

import anyio
from typing_extensions import override

from apicas._documents import Document, decode, encode
from apicas._runtime.attempts.notes import Usage
from apicas._runtime.commands.process import (
    CommandOptions,
    CommandResult,
    RunningCommand,
    excess_error,
    running_supervision,
)
from apicas._runtime.hooks import Work
from apicas._runtime.isolation.frames import COUNT_BYTES, END, FrameConnection, framed
from apicas._runtime.isolation.verdicts import heard, heard_usage, with_usage
from apicas._runtime.isolation.worker_output import WorkerOutput
from apicas._runtime.keeping.outcomes import Crashed, Cut, Raised, Verdict, storable
from apicas._runtime.processes import groups
from apicas._runtime.processes.allotment import running_allocation, shape_of, told_allocation, with_variables
from apicas._runtime.processes.children import adopted
from apicas._runtime.processes.readers import running_readers
from apicas.clients.base import PoolClient
from apicas.exceptions import InvalidTokenError
from apicas.tokens import Token, progress_of

if TYPE_CHECKING:
    from apicas._runtime.processes.supervision import Attempt

MAX_STATE: Final = 100_000_000
"""Bytes of the work's state: it is kept from the start on, in case that a token needs it."""
MAX_ANSWER: Final = 1 << 30
"""Bytes of an answer: a document and its new attachments. A process whose memory is damaged may say any number."""
MAX_REPORT: Final = 20_000
"""Bytes of what a crash had to say that are kept."""
TAKE_LIMIT: Final = 10.0
"""Seconds for a process to say that it takes a token. What an earlier one left there may block it."""
LAST_WORDS: Final = 0.25
"""Seconds for an answer that is still in the pipe when its process has ended."""
MAX_LOOK: Final = 0.05
"""Seconds between two looks at whether a process has ended, where the system has no word for that."""
_GUARD: Final = re.compile(r"^if\s+.*__name__", re.MULTILINE)
# The first thing that the process needs is the path to this package.
_BOOT: Final = (
    "import pickle, sys; numbers = list(map(int, sys.argv[1:])); pilot = open(numbers[0], 'rb', closefd=False); "
    "sys.path[:] = pickle.load(pilot); from apicas._runtime.isolation.isolated import main; main(pilot, *numbers)"
)


class Isolation:
    """Starts processes for tokens.

    Args:
        work: what is to be done there.
        stays: what is not sent: instances of these classes, by what they are called.
        store_time: the store's clock, in unix seconds.
    """

    def __init__(self, work: Work, stays: dict[str, type | tuple[type, ...]], store_time: Callable[[], float]) -> None:
        self._work = work
        self._stays = {"client": PoolClient, **stays}
        self._store_time = store_time
        self._state = b""
        self._needs_main = False
        self.unfit: str | None = "it was not asked to be sent"
        """Why the work cannot be sent to a process; None where it can."""

    def snapshot(self) -> None:
        """Keep the work as it is now."""
        state = _Bounded(MAX_STATE)
        sender = _Sender(state, self._stays)
        try:
            sender.dump(self._work.remake)
            if sender.needs_main:
                _check_main()
        except Exception as error:  # noqa: BLE001 - any class of the user's may be asked for its state
            self.unfit = str(error) or type(error).__name__
        else:
            self._state, self._needs_main, self.unfit = state.getvalue(), sender.needs_main, None

    def start(self) -> IsolatedProcess:
        """Start a process.

        Raises:
            OSError: the system has no room for one.
        """
        from multiprocessing import spawn  # noqa: PLC0415 - few pilots ever need it

        modules: dict[str, Any] = spawn.get_preparation_data("apicas token")
        modules.pop("authkey", None)  # a secret that nobody needs there
        if not self._needs_main:
            modules = {name: value for name, value in modules.items() if not name.startswith("init_main")}
        path = modules.get("sys_path", sys.path)
        frames = (framed(pickle.dumps(modules)), framed(self._state))
        return IsolatedProcess(pickle.dumps(path) + b"".join(frames), self._store_time)


class UnfitError(Exception):
    """The work cannot be done in a process of its own; the message says why."""


class IsolatedProcess:
    """A process for tokens, from its start to its end.

    Use it in this order: `ready`, `give` and `work` for each token, and in any case `leave` and `end`.

    Args:
        introduction: what it is sent first.
        store_time: the store's clock, in unix seconds.
    """

    def __init__(self, introduction: bytes, store_time: Callable[[], float]) -> None:
        self._store_time = store_time
        self._introduction = introduction
        self.shape = shape_of(running_allocation.get())
        """What its libraries took it for that they can use: it is for tokens that are given as much."""
        self._report = tempfile.TemporaryFile()  # noqa: SIM115 - `end` closes it
        self._taken: IO[bytes] = _counting_file()
        ours, theirs = socket.socketpair()
        attempt = running_supervision().attempt()
        self._output = WorkerOutput()
        try:
            with theirs, self._output.write_ends() as streams:
                self._child = _start((theirs.fileno(), self._report.fileno(), self._taken.fileno()), streams, attempt)
        except BaseException:
            running_supervision().forget(attempt)
            self._output.close()
            ours.close()
            self._report.close()
            self._taken.close()
            raise
        self._socket = ours
        self._running = _Running(self._child, CommandOptions(grace=0.0), attempt)
        self._connection: FrameConnection | None = None
        self._end_watch: int | None = None
        self._is_ready = self._is_for_one = False
        self._token: Token | None = None
        """What it was sent and has not answered."""
        self._given = 0
        """How many tokens it was sent."""
        self._patience: asyncio.TimerHandle | None = None

    @property
    def is_fresh(self) -> bool:
        """Whether it was sent no token before the present one."""
        return self._given <= 1

    @property
    def is_free(self) -> bool:
        """Whether it lives, and may be sent another token."""
        return self._is_ready and self._token is None and not self._is_for_one and not self._running.has_ended()

    async def ready(self) -> str | None:
        """Wait until it is ready for tokens; else say why it cannot be.

        Raises:
            OSError: it was ended from outside, before it could have done anything.
        """
        self._connection = FrameConnection(MAX_ANSWER)
        await self._connection.open(self._socket)
        self._watch()
        await self._connection.send(self._introduction)
        self._introduction = b""
        answer = await self._receive()
        if answer is None:
            result = await self._ended()
            if result is None or result.signal in {SIGKILL, SIGTERM, SIGUSR1}:
                raise OSError("a process for it was ended before it was ready")
            return f"{_reason(result)} before it was ready"
        self._is_ready = answer.get("ready") is True
        return None if self._is_ready else str(answer.get("unfit"))

    async def give(self, token: Token, cleanup_time: float) -> None:
        """Send it a token; `refuses` tells after `work` whether it has taken it.

        Args:
            token: the token. If it has been charged with a crash, the process is for no other one.
            cleanup_time: seconds that cleanup_run may take when the work is ended from outside.
        """
        self._token, self._is_for_one = token, token.crashes > 0
        self._output.begin(token)
        self._running.limit_memory()
        self._given += 1
        self._patience = asyncio.get_running_loop().call_later(TAKE_LIMIT, self._lose_patience)
        allocation = told_allocation(token.allocation)
        path = None if token.lease is None else token.lease.progress_path()
        order = {"token": token.document, "now": self._store_time(), "grace": cleanup_time, "progress": path}
        await self._send(order if allocation is None else {**order, "allocation": allocation})

    def refuses(self) -> bool:
        """Whether it has not taken the token that it was sent; then it can be no more than ended."""
        if self._token is None or self._has_taken():
            return False
        self._is_ready = False
        return True

    def _has_taken(self) -> bool:
        return int.from_bytes(os.pread(self._taken.fileno(), COUNT_BYTES, 0), "big") >= self._given

    def _lose_patience(self) -> None:
        if self._connection is not None and self.refuses():
            self._connection.finish()

    def _be_patient(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    async def work(self) -> Verdict:
        """Wait until the token that it was sent is worked; its document becomes what came back.

        Where it has not taken the token, as `refuses` tells then, the verdict means nothing.
        """
        verdict = await self._verdict()
        self._output.end()
        return verdict

    async def _verdict(self) -> Verdict:
        answer = await self._receive()
        self._be_patient()
        if answer is None and self.refuses():
            return Cut()
        running = self._running
        if running.excess is not None:
            self._is_ready = False
            usage = Usage(peak_memory=max(running.excess, running.sampled_peak))
            return Raised(excess_error("its process", running.excess, running.limit), usage=usage)
        if answer is None:
            result = await self._ended()
            self._is_ready = False
            usage = Usage(peak_memory=running.sampled_peak or None)
            return Crashed(_reason(result), self._last_report(), usage=usage)
        return self._settle(answer)

    def _settle(self, answer: Document) -> Verdict:
        token, self._token = self._token, None
        try:
            usage = heard_usage(answer["usage"])
            usage = replace(usage, peak_memory=max(usage.peak_memory or 0, self._running.sampled_peak) or None)
            verdict, document = with_usage(heard(answer), usage), answer.get("document")
        except (KeyError, TypeError, ValueError):
            self._is_ready = False
            return Crashed("its process answered what makes no sense", None)
        if token is not None and isinstance(document, dict):
            token.document.clear()
            token.document.update(document)
        self._is_for_one |= isinstance(verdict, Cut)  # somebody told it to end
        return verdict

    async def leave(self) -> None:
        """Have it end: after cleanup_env, or, where its work is still going on, after that was cancelled.

        What the work had written into its token by then comes back.
        """
        if not self._is_ready or self._running.has_ended():
            return
        if self._token is not None:
            groups.signal_group(self._child.pid, SIGTERM)
            groups.signal_group(self._child.pid, SIGCONT)  # a stopped process takes TERM only when it goes on
            answer = await self._receive()
            if answer is not None:
                self._settle(answer)
        if self._connection is not None:
            await self._connection.send(END)
        await self._running.wait()

    async def end(self) -> None:
        """Leave nothing of it behind."""
        self._be_patient()
        with anyio.CancelScope(shield=True):
            groups.signal_group(self._child.pid, SIGKILL)
            try:
                await self._running.end()
            finally:
                self._output.close()
                self._running.close()
                self._report.close()
                self._taken.close()
                self._unwatch()
                if self._connection is not None:
                    await self._connection.close()
                self._socket.close()

    # The connection. ------------------------------------------------------------------------------------------------

    async def _send(self, message: Document) -> None:
        if self._connection is not None:
            await self._connection.send(framed(encode(message)))

    async def _receive(self) -> Document | None:
        """The next answer; None where there is none to come."""
        while self._connection is not None and (body := await self._connection.receive()) is not None:
            try:
                answer = decode(body)
            except InvalidTokenError:
                return None
            if not isinstance(answer, dict):
                return None
            if "reached" not in answer:
                return answer
            self._reach(answer["reached"])
        return None

    def _reach(self, progress: Any) -> None:
        """Note how far its work is, which is what somebody else says: any JSON."""
        with suppress(KeyError, TypeError, ValueError):
            told = progress_of(progress["fraction"], progress["message"])
            if self._token is not None and self._token.lease is not None:
                self._token.lease.reached(told)

    def _watch(self) -> None:
        """Note its end: what the work started may hold the connection open, so that alone says nothing."""
        self._end_watch = self._running.open_end_watch()
        if self._end_watch is None:
            self._look()
        else:
            running_readers().add(self._end_watch, self._note_end)

    def _unwatch(self) -> None:
        descriptor, self._end_watch = self._end_watch, None
        if descriptor is not None:
            running_readers().remove(descriptor)
            os.close(descriptor)

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        if self._running.has_ended():
            self._note_end()
        else:
            loop.call_later(MAX_LOOK, self._look)

    def _note_end(self) -> None:
        self._unwatch()
        if self._connection is not None:
            asyncio.get_running_loop().call_later(LAST_WORDS, self._connection.finish)

    async def _ended(self) -> CommandResult | None:
        """How it ended; None where it lives on and answers no more."""
        with anyio.move_on_after(LAST_WORDS):
            await self._running.wait()
            return self._running.result()
        return None

    def _last_report(self) -> str | None:
        self._report.seek(0)
        text = storable(self._report.read(MAX_REPORT).decode("utf-8", "replace"))
        return text or None


class _Running(RunningCommand):
    """A process without pipes of its own."""

    def __init__(self, leader: subprocess.Popen[bytes], options: CommandOptions, attempt: Attempt) -> None:
        super().__init__(adopted(leader), options, attempt)
        self._silent.set_result(None)
        self._is_forced = True  # it has worked many tokens: nothing of theirs is left for later

    @property
    def limit(self) -> int | None:
        """Bytes of memory that it may take."""
        return self._attempt.limit

    @property
    def sampled_peak(self) -> int:
        """Bytes of memory that it took, with all that it had started, as far as looks have shown."""
        return self._attempt.peak

    def limit_memory(self) -> None:
        """Heed the limit of the token for which this is called, from now on."""
        self._limit_memory()
        self._supervision.look_soon(self._attempt)
        self._attempt.peak = 0

    def open_end_watch(self) -> int | None:
        """What becomes readable when it ends, to be closed by the caller; None where there is no such thing."""
        return self._leader.open_watch()

    def has_ended(self) -> bool:
        """Whether it has; it stays a zombie."""
        return self._has_ended()

    def result(self) -> CommandResult:
        """How it ended."""
        return self._result()


def _counting_file() -> IO[bytes]:
    """A file in which a process counts; it has its place on the disk already."""
    file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - the caller closes it
    try:
        os.pwrite(file.fileno(), bytes(COUNT_BYTES), 0)
    except BaseException:
        file.close()
        raise
    return file


def _start(ours: tuple[int, int, int], streams: tuple[int, int], attempt: Attempt) -> subprocess.Popen[bytes]:
    flags: list[str] = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]  # noqa: SLF001 - as multiprocessing does
    return subprocess.Popen(  # noqa: S603 - this interpreter, and a program of ours
        [sys.executable, *flags, "-c", _BOOT, *map(str, ours)],
        stdin=subprocess.DEVNULL,
        stdout=streams[0],
        stderr=streams[1],
        pass_fds=ours,
        env=cast("Any", attempt.marked(with_variables(None))),
        start_new_session=True,
    )


def _reason(result: CommandResult | None) -> str:
    if result is None:
        return "its process answers no more"
    if result.signal is None:
        return f"its process exited with code {result.exit_code} without an answer"
    try:
        name = Signals(result.signal).name
    except ValueError:
        name = f"signal {result.signal}"
    if result.out_of_memory:
        return f"its process was killed by {name}: the node ran out of memory, or the batch job did"
    return f"its process was killed by {name}{' (out of memory?)' if result.signal == SIGKILL else ''}"


# What is sent. --------------------------------------------------------------------------------------------------------


class CannotBeSentError(Exception):
    """The work cannot be sent to a process; the message says why."""


class _Bounded(io.BytesIO):
    """A buffer that is not to grow for ever."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self._most = most

    @override
    def write(self, data: Any) -> int:
        if self.tell() + len(data) > self._most:
            raise CannotBeSentError(f"its state has more than {self._most:,} bytes")
        return super().write(data)


class _Sender(pickle.Pickler):
    """Pickles the work without what stays with the pilot."""

    def __init__(self, file: IO[bytes], stays: dict[str, Any]) -> None:
        super().__init__(file, protocol=pickle.HIGHEST_PROTOCOL)
        self._stays = stays
        self.needs_main = False

    @override
    def persistent_id(self, obj: Any) -> Any:
        if isinstance(obj, (type, FunctionType)):
            if "<" in obj.__qualname__:
                raise CannotBeSentError(f"{obj.__qualname__} has no name in a module by which it could be imported")
            self.needs_main |= obj.__module__ == "__main__"
            return None
        if isinstance(obj, MethodType) and obj.__name__ == "time" and isinstance(obj.__self__, PoolClient):
            return "clock"  # a modifier's
        for name, kind in self._stays.items():
            if isinstance(obj, kind):
                return name
        return None


def _check_main() -> None:
    """Check that the main module can be imported once more.

    Raises:
        CannotBeSentError: it cannot, or importing it would run it.
    """
    name = getattr(sys.modules["__main__"], "__file__", None)
    try:
        text = Path(name or "").read_text(encoding="utf-8", errors="replace")
    except OSError:
        raise CannotBeSentError("it is defined in a notebook or an interactive session, and not in a module") from None
    if not _GUARD.search(text):
        raise CannotBeSentError(
            f'it is defined in {os.path.basename(name or "")}, which has no `if __name__ == "__main__":`, '  # noqa: PTH119
            "so importing it would run it once more"
        )
