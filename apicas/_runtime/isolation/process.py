"""One process for tokens, from the pilot's side: from its start to its end.

Rules:
- Tokens go there and come back as JSON. Nothing that comes from that process is unpickled.
- A process that ends without an answer is the crash of the token that it has taken. Before that it is nobody's.
- It counts what it has taken in a file that both have open, and which is read only when it gives no answer: a word for
  each token would wake the pilot when the work begins, and take the processor from it.
- Whatever ends the wait (the time limit, a cancellation, its death), `leave` and `end` leave nothing of the process.
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from signal import SIGCONT, SIGKILL, SIGTERM, SIGUSR1
from typing import IO, TYPE_CHECKING, Any, Final, cast

import anyio

from apicas._documents import Document, decode, encode
from apicas._runtime.attempts.current import memory_limit_here
from apicas._runtime.attempts.notes import Usage
from apicas._runtime.isolation.frames import COUNT_BYTES, END, FrameConnection, framed
from apicas._runtime.isolation.verdicts import heard, heard_usage, with_usage
from apicas._runtime.isolation.worker_output import WorkerOutput
from apicas._runtime.keeping.outcomes import Crashed, Cut, Raised, Verdict, storable
from apicas._runtime.processes import groups
from apicas._runtime.processes.allotment import running_allocation, shape_of, told_allocation, with_variables
from apicas._runtime.processes.children import adopted
from apicas._runtime.processes.readers import running_readers
from apicas._runtime.processes.running import Ended, RunningGroup, running_supervision, signal_name
from apicas.exceptions import InvalidTokenError
from apicas.tokens import Token, progress_of

if TYPE_CHECKING:
    from apicas._runtime.processes.attempt import Attempt

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
# The first thing that the process needs is the path to this package.
_BOOT: Final = (
    "import pickle, sys; numbers = list(map(int, sys.argv[1:])); pilot = open(numbers[0], 'rb', closefd=False); "
    "sys.path[:] = pickle.load(pilot); from apicas._runtime.isolation.isolated import main; main(pilot, *numbers)"
)


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
        self._group = RunningGroup(adopted(self._child), attempt, grace=0.0, memory=memory_limit_here())
        self._group.leaves_nothing = True  # it is to work many tokens: nothing of theirs is left for later
        self._connection: FrameConnection | None = None
        self._end_watch: int | None = None
        self._is_ready = self._is_for_one = False
        self._token: Token | None = None
        """What it was sent and has not answered."""
        self._given = 0
        """How many tokens it was sent."""
        self._patience: asyncio.TimerHandle | None = None

    @property
    def is_free(self) -> bool:
        """Whether it lives, and may be sent another token."""
        return self._is_ready and self._token is None and not self._is_for_one and not self._group.has_ended()

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
        self._group.limit_memory(memory_limit_here())
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
        group = self._group
        if group.excess is not None:
            self._is_ready = False
            usage = Usage(peak_memory=max(group.excess, group.sampled_peak))
            return Raised(group.excess_error("its process"), usage=usage)
        if answer is None:
            result = await self._ended()
            self._is_ready = False
            usage = Usage(peak_memory=group.sampled_peak or None)
            return Crashed(_reason(result), self._last_report(), usage=usage)
        return self._settle(answer)

    def _settle(self, answer: Document) -> Verdict:
        token, self._token = self._token, None
        try:
            usage = heard_usage(answer["usage"])
            usage = replace(usage, peak_memory=max(usage.peak_memory or 0, self._group.sampled_peak) or None)
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
        if not self._is_ready or self._group.has_ended():
            return
        if self._token is not None:
            groups.signal_group(self._child.pid, SIGTERM)
            groups.signal_group(self._child.pid, SIGCONT)  # a stopped process takes TERM only when it goes on
            answer = await self._receive()
            if answer is not None:
                self._settle(answer)
        if self._connection is not None:
            await self._connection.send(END)
        await self._group.wait()

    async def end(self) -> None:
        """Leave nothing of it behind."""
        self._be_patient()
        with anyio.CancelScope(shield=True):
            groups.signal_group(self._child.pid, SIGKILL)
            try:
                await self._group.end()
            finally:
                self._output.close()
                self._group.close()
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
        self._end_watch = self._group.open_end_watch()
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
        if self._group.has_ended():
            self._note_end()
        else:
            loop.call_later(MAX_LOOK, self._look)

    def _note_end(self) -> None:
        self._unwatch()
        if self._connection is not None:
            asyncio.get_running_loop().call_later(LAST_WORDS, self._connection.finish)

    async def _ended(self) -> Ended | None:
        """How it ended; None where it lives on and answers no more."""
        with anyio.move_on_after(LAST_WORDS):
            await self._group.wait()
            return self._group.how_it_ended()
        return None

    def _last_report(self) -> str | None:
        self._report.seek(0)
        text = storable(self._report.read(MAX_REPORT).decode("utf-8", "replace"))
        return text or None


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


def _reason(result: Ended | None) -> str:
    if result is None:
        return "its process answers no more"
    if result.signal is None:
        return f"its process exited with code {result.exit_code} without an answer"
    name = signal_name(result.signal)
    if result.out_of_memory:
        return f"its process was killed by {name}: the node ran out of memory, or the batch job did"
    return f"its process was killed by {name}{' (out of memory?)' if result.signal == SIGKILL else ''}"
