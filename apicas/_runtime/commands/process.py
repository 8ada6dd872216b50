"""Commands: started without a shell, captured within bounds, and never left behind.

Rules:
- A command leads a session and a process group of its own, so that all that it starts can be ended with it. What leaves
  the session on purpose (a daemon that calls setsid) is known by its mark, and ended too: see supervisor_watch.
- Whatever ends the wait for a command (its end, the time limit, a cancellation), the way out is the same: TERM to the
  group if the command still runs, KILL after the grace period, the proof that nobody is left, all pipes closed.
- Starting is one plain call: between the fork and the block that cleans up there is nothing that could be cancelled.
"""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from signal import SIGCONT, SIGKILL, SIGTERM, Signals
from typing import TYPE_CHECKING, Any, Final, TypedDict

import anyio
from typing_extensions import Unpack

from apicas._documents import shown
from apicas._runtime.attempts.current import running_token
from apicas._runtime.attempts.notes import Usage
from apicas._runtime.attempts.progress import VARIABLE as PROGRESS
from apicas._runtime.processes import groups
from apicas._runtime.processes.allotment import Environment, cores_to_start_on, with_variables
from apicas._runtime.processes.children import Child, Start, close, start_child
from apicas._runtime.processes.pipes import Capture, InputPipe, OutputPipe
from apicas._runtime.processes.readers import running_readers
from apicas.exceptions import CommandError, ConfigError, TokenMemoryError, TokenTimeoutError

if TYPE_CHECKING:
    from apicas._runtime.attempts.logs import AttemptLog
    from apicas._runtime.processes.supervision import Attempt, Supervision

log = logging.getLogger("apicas")

NOT_FOUND: Final = 127
"""The exit code of a command that does not exist, as shells have it."""
NOT_EXECUTABLE: Final = 126
"""The exit code of a command that could not be started for any other reason."""
UNKNOWN: Final = 255
"""The exit code of a command whose own was taken by somebody else: SIGCHLD is ignored, or other code waits for all."""
SIGNAL_BASE: Final = 128
"""What shells add to a signal's number to make an exit code of it."""

STRAGGLER_TIME: Final = 0.25
"""Seconds for those that hold the pipes when the command has ended, as the `tee` of a script does for a moment."""
KILL_TIME: Final = 5.0
"""Seconds until a group that had its KILL is given up. One that hangs in the kernel, on a dead file server for
instance, ends when that call does, and not before."""
MIN_PAUSE: Final = 0.001
MAX_PAUSE: Final = 0.05
"""Seconds between two looks where the kernel sends no word: the first ones are close, most commands are short."""
_MAXRSS_UNIT: Final = 1 if sys.platform == "darwin" else 1024
MAX_COMPLAINT: Final = 2_000
"""Characters of stderr in a message: the message goes into the token, and stderr is attached beside it."""

memory_limit: ContextVar[int | None] = ContextVar("memory_limit", default=None)
"""Bytes of memory that all processes of one token may take together."""

_left_behind: list[Child] = []


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandResult:
    """How a command ended.

    Args:
        exit_code: its own; 128 + n where signal n ended it, as in a shell; 255 where it cannot be known.
        signal: the number of the signal that ended it, else None.
        stdout: what it wrote, head and tail, with a line in between that says how many bytes are missing.
        stderr: the same for its errors.
        seconds: from the start to its end.
        cpu_seconds: user and system time on all cores, with that of its children which it has waited for; None where it
            cannot be known.
        peak_memory: bytes, as far as is known: the most that one of its processes took where that is more than this
            process has, or all together, where they ran long enough to be looked at; None where nothing is known.
        out_of_memory: whether it was killed, and the kernel has just killed somebody for want of memory.
    """

    exit_code: int
    signal: int | None
    stdout: bytes
    stderr: bytes
    seconds: float
    cpu_seconds: float | None = None
    peak_memory: int | None = None
    out_of_memory: bool = False

    @property
    def ok(self) -> bool:
        """Whether the exit code is 0."""
        return self.exit_code == 0


class CommandKeywords(TypedDict, total=False):
    """The keywords of run_command; see CommandOptions."""

    cwd: str | os.PathLike[str] | None
    env: Mapping[str, str] | None
    shell: bool
    timeout: float | None
    grace: float
    capture: int
    stdin: bytes | None
    check: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandOptions:
    """How a command is run.

    Args:
        cwd: its directory; None for ours.
        env: its whole environment; None for ours.
        shell: whether the command is a line for `/bin/sh`.
        timeout: seconds until it is ended; None for no limit.
        grace: seconds between TERM and KILL.
        capture: bytes that are kept of each of stdout and stderr.
        stdin: what it can read; None for nothing.
        check: whether an exit code other than 0 raises.
    """

    cwd: str | os.PathLike[str] | None = None
    env: Mapping[str, str] | None = None
    shell: bool = False
    timeout: float | None = None
    grace: float = 5.0
    capture: int = 1_000_000
    stdin: bytes | None = None
    check: bool = False

    def __post_init__(self) -> None:
        for name in ("timeout", "grace", "capture"):
            value = getattr(self, name)
            if value is not None and not value >= 0:
                raise ConfigError(f"{name} is {value}: it cannot be less than 0")


async def run_command(
    command: Sequence[str | os.PathLike[str]] | str, **keywords: Unpack[CommandKeywords]
) -> CommandResult:
    """Run a command to its end, and return how it ended and what it wrote.

    A time limit or a cancellation ends the command and all that it started: TERM, and after the grace period KILL. What
    it left running in the background is killed when it has ended. Nothing of it is left when this returns or raises.

    Args:
        command: the program and its arguments; a string, with `shell=True`.
        keywords: `cwd`, `env` (the whole environment), `shell`, `timeout` (seconds), `grace` (seconds between TERM and
            KILL, 5), `capture` (bytes kept of each stream, 1,000,000), `stdin` (bytes), `check` (raise for an exit code
            other than 0). See CommandOptions.

    Raises:
        CommandError: it could not be started (exit code 127: not found; 126: anything else), or `check` is set and its
            exit code is not 0.
        TokenTimeoutError: it was ended at the time limit.
        TokenMemoryError: it was ended since its token's processes took more memory than a token may.
        ConfigError: the command or an option is nothing that can be run.
    """
    options = CommandOptions(**keywords)
    result = await perform(command, options, _ignore)
    if options.check and not result.ok:
        raise CommandError(complaint(command, result), result.exit_code)
    return result


async def perform(
    command: Sequence[str | os.PathLike[str]] | str,
    options: CommandOptions,
    on_end: Callable[[CommandResult], None],
    environment: Environment = None,
    output: AttemptLog | None = None,
) -> CommandResult:
    """Run a command, and show its result to `on_end` in any case: also when it was cancelled, or cut at its limit.

    Args:
        command: as run_command takes it.
        options: how; `check` is the caller's.
        on_end: called once, if the command was started. Must not raise.
        environment: wins over that of the options, unless it is None.
        output: takes what it writes; None for a new one.

    Raises:
        CommandError: it could not be started.
        TokenTimeoutError: it was ended at the time limit.
        TokenMemoryError: it was ended since its token's processes took more memory than a token may.
        ConfigError: it is nothing that can be run.
    """
    attempt = running_supervision().attempt()
    try:
        wanted = with_variables(options.env if environment is None else environment)
        leader = _started(command, options, _environment(wanted, attempt))
    except BaseException:
        running_supervision().forget(attempt)
        raise
    running = RunningCommand(leader, options, attempt, output)
    in_time = True
    try:
        running.connect()
        in_time = await running.wait_until(options.timeout)
    finally:
        try:
            await running.end()
        finally:
            result = running.close()
            _note(result)
            on_end(result)
    if running.excess is not None:
        raise excess_error(_name(command), running.excess, attempt.limit)
    if not in_time:
        error = TokenTimeoutError(f"{_name(command)}: not done within the time limit of {options.timeout:g} s")
        error.add_note(complaint(command, result))
        raise error
    return result


def _environment(given: Environment, attempt: Attempt) -> Environment:
    """An environment with the mark of an attempt, and with the path for the progress of the token that runs here."""
    marked = attempt.marked(given)
    token = running_token.get()
    path = None if token is None or token.lease is None else token.lease.progress_path()
    if path is None:
        return marked
    ours: Mapping[Any, Any] = os.environb if marked is None else marked
    if isinstance(next(iter(ours), b""), bytes):
        return {**ours, PROGRESS.encode(): os.fsencode(path)}
    return {**ours, PROGRESS: path}


def _note(result: CommandResult) -> None:
    """Note what a command took with the attempt that it was for."""
    token = running_token.get()
    if token is not None and token.lease is not None:
        usage = Usage(cpu_seconds=result.cpu_seconds, peak_memory=result.peak_memory, seconds=result.seconds)
        token.lease.note().took(usage)


def complaint(command: Sequence[str | os.PathLike[str]] | str, result: CommandResult) -> str:
    """What a failed command has to say, in a message: its exit code and the end of its stderr."""
    how = f"exit code {result.exit_code}" if result.signal is None else f"ended by {_signal_name(result.signal)}"
    if result.out_of_memory:
        how += " (the node ran out of memory, or the batch job did)"
    last_words = result.stderr[-4 * MAX_COMPLAINT :].decode("utf-8", "replace").strip()[-MAX_COMPLAINT:]
    return f"{_name(command)}: {how}: {last_words}" if last_words else f"{_name(command)}: {how}"


class RunningCommand:
    """A command that has been started: its leader, its group and its pipes.

    Args:
        leader: the process, which leads a group of its own.
        options: how it is run.
        attempt: what its processes are known by.
        output: takes what it writes; None for a new one.
    """

    def __init__(
        self, leader: Child, options: CommandOptions, attempt: Attempt, output: AttemptLog | None = None
    ) -> None:
        self._leader = leader
        self._options = options
        self._attempt = attempt
        self._supervision = running_supervision()
        self._limit_memory()
        self._supervision.holds(attempt, leader.pid)
        self._was_stopped = False
        """Whether it was ended by us."""
        self._is_forced = False
        """Whether it did not end by itself, or somebody held its pipes: then what it left is not left for later."""
        self.excess: int | None = None
        """Bytes of memory that its token took, where that was too much."""
        self._started = time.monotonic()
        self._ended: float | None = None
        self._status: int | None = None
        self._exit_watch = leader.open_watch()
        self._loop = asyncio.get_running_loop()
        self._silent: asyncio.Future[None] = self._loop.create_future()
        if output is None:
            self._stdout, self._stderr = Capture(options.capture), Capture(options.capture)
        else:
            self._stdout, self._stderr = output.stdout, output.stderr
        self._outputs: list[OutputPipe] = []
        self._stdin: InputPipe | None = None

    def connect(self) -> None:
        """Read and write its pipes from now on."""
        leader = self._leader
        for descriptor, capture in ((leader.stdout, self._stdout), (leader.stderr, self._stderr)):
            if descriptor is not None:
                self._outputs.append(OutputPipe(descriptor, capture, self._output_ended))
        if leader.stdin is not None:
            self._stdin = InputPipe(leader.stdin, self._options.stdin or b"")

    def _limit_memory(self) -> None:
        """Heed the limit of the token for which this is called, if there is one."""
        attempt = self._attempt
        attempt.limit = memory_limit.get()
        if attempt.limit is not None:
            token = running_token.get()
            attempt.group = attempt.number if token is None else token.id
            loop = asyncio.get_running_loop()
            attempt.on_excess = partial(_call_soon, loop, self._exceed)

    def _exceed(self, taken: int) -> None:
        """End it for the memory that its token takes: at once, since a grace period would let it take more."""
        if self.excess is None and not self._has_ended():
            self.excess = taken
            self._is_forced = self._was_stopped = True
            groups.signal_group(self._leader.pid, SIGKILL)

    async def wait_until(self, timeout: float | None) -> bool:
        """Return True when the leader has ended, False after so many seconds."""
        if timeout is None:
            await self.wait()
            return True
        with anyio.move_on_after(timeout) as timer:
            await self.wait()
        return not timer.cancelled_caught

    async def wait(self) -> None:
        """Return when the leader has ended. It stays a zombie, so that its id names nobody else."""
        if self._exit_watch is not None and self._ended is None:
            await self._word_of_its_end(self._exit_watch)
        pause = MIN_PAUSE
        while not self._has_ended():
            await anyio.sleep(pause)
            pause = min(2 * pause, MAX_PAUSE)

    async def _word_of_its_end(self, descriptor: int) -> None:
        ended: asyncio.Future[None] = self._loop.create_future()
        readers = running_readers()
        readers.add(descriptor, partial(_resolve, ended))
        try:
            await ended
        finally:
            readers.remove(descriptor)

    async def end(self) -> None:
        """End what is still there of the group, and return when it is gone, or after KILL_TIME.

        Not to be cut short by a cancel scope. A bare `Task.cancel()` shortens the grace period.
        """
        if self._silent.done() and self._has_ended() and not self._is_forced:  # as most have
            await self._kill()
            self._supervision.forget(self._attempt)
            return
        with anyio.CancelScope(shield=True):
            try:
                if self._has_ended():
                    await self._fall_silent()
                else:
                    await self._stop()
            finally:
                try:
                    await self._kill()
                finally:
                    if self._is_forced:
                        await self._clear()

    async def _clear(self) -> None:
        """Return when nothing is left of it in other sessions either. A cancellation is kept for afterwards."""
        kept: asyncio.CancelledError | None = None
        cleared = self._supervision.cleared(self._attempt)
        while not cleared.done():
            try:
                await asyncio.wait([cleared])
            except asyncio.CancelledError as error:
                kept = error
        if kept is not None:
            raise kept

    async def _kill(self) -> None:
        groups.signal_group(self._leader.pid, SIGKILL)
        self._supervision.let_go(self._attempt)
        killed = time.monotonic()
        if not self._is_gone(killed):
            with anyio.CancelScope(shield=True):
                await self._be_gone(killed)

    def close(self) -> CommandResult:
        """Close the pipes, with what is still in them taken; the result."""
        for pipe in self._outputs:
            pipe.close()
        if self._stdin is not None:
            self._stdin.close()
        self._close_unconnected()
        self._supervision.let_go(self._attempt)
        self._supervision.forget(self._attempt)
        if self._exit_watch is not None:
            os.close(self._exit_watch)
            self._exit_watch = None
        if not self._leader.reaped:
            log.warning("process %d was killed and does not end", self._leader.pid)
            _left_behind.append(self._leader)
        return self._result()

    def _close_unconnected(self) -> None:
        """Close the pipes that connecting has failed for."""
        leader = self._leader
        close(*(leader.stdout, leader.stderr)[len(self._outputs) :])
        if self._stdin is None:
            close(leader.stdin)

    async def _fall_silent(self) -> None:
        if not self._silent.done():
            with anyio.move_on_after(STRAGGLER_TIME):
                await asyncio.wait([self._silent])
                return
            self._is_forced = True

    async def _stop(self) -> None:
        self._is_forced = self._was_stopped = True
        groups.signal_group(self._leader.pid, SIGTERM)
        groups.signal_group(self._leader.pid, SIGCONT)  # a stopped process takes TERM only when it goes on
        with anyio.move_on_after(self._options.grace):
            await self.wait()
            pause = MIN_PAUSE
            while groups.living.has(self._leader.pid, self._started):
                await anyio.sleep(pause)
                pause = min(2 * pause, MAX_PAUSE)

    async def _be_gone(self, killed: float) -> None:
        """Return when the leader has been reaped and no other member of the group lives, or after KILL_TIME.

        What had its KILL is gone in a moment. A cancellation in that moment is kept for afterwards: it would leave a
        zombie, and gain nothing.
        """
        kept: asyncio.CancelledError | None = None
        pause = MIN_PAUSE
        while not self._is_gone(killed) and time.monotonic() < killed + KILL_TIME:
            try:
                await anyio.sleep(pause)
            except asyncio.CancelledError as error:
                kept = error
            pause = min(2 * pause, MAX_PAUSE)
        if kept is not None:
            raise kept

    def _is_gone(self, killed: float) -> bool:
        if not self._has_ended():
            return False
        self._leader.reap()
        return groups.is_gone(self._leader.pid, killed)

    def _has_ended(self) -> bool:
        if self._ended is None:
            ended, self._status = self._leader.look()
            if ended:
                self._ended = time.monotonic()
        return self._ended is not None

    def _output_ended(self) -> None:
        if all(pipe.closed for pipe in self._outputs):
            _resolve(self._silent)

    def _result(self) -> CommandResult:
        self._has_ended()
        status = -SIGKILL if self._ended is None else self._status
        usage = self._leader.usage
        return CommandResult(
            exit_code=UNKNOWN if status is None else status if status >= 0 else SIGNAL_BASE - status,
            signal=-status if status is not None and status < 0 else None,
            stdout=self._stdout.content(),
            stderr=self._stderr.content(),
            seconds=(self._ended or time.monotonic()) - self._started,
            cpu_seconds=None if usage is None else usage.ru_utime + usage.ru_stime,
            peak_memory=self._peak_memory(),
            out_of_memory=status == -SIGKILL and not self._was_stopped and self._supervision.kernel_kills.lately(),
        )

    def _peak_memory(self) -> int | None:
        """What is known of it. A program begins with the peak of the process that has started it: ours."""
        usage = self._leader.usage
        peak = 0 if usage is None or _ours.reaches(usage.ru_maxrss) else usage.ru_maxrss
        return max(peak * _MAXRSS_UNIT, self._attempt.peak) or None


class _OwnPeak:
    """The most memory that this process has ever had; the system is asked only when that may matter."""

    def __init__(self) -> None:
        self._known = 0

    def reaches(self, size: int) -> bool:
        """Whether we had as much, in the unit of ru_maxrss."""
        if size > self._known:
            self._known = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return size <= self._known


_ours: Final = _OwnPeak()


def running_supervision() -> Supervision:
    """What looks after the processes that this one starts."""
    from apicas._runtime.processes.supervision import supervision  # noqa: PLC0415 - most pilots start no process

    return supervision()


async def leave_nothing() -> None:
    """Return when nothing is left of all commands and worker processes that have ended."""
    watch = sys.modules.get("apicas._runtime.processes.supervision")
    if watch is not None and watch.has_begun():  # else nothing was started, and nothing is to be begun for it
        await running_supervision().cleared()


def excess_error(name: str, taken: int, limit: int | None) -> TokenMemoryError:
    """What ends a token whose processes took too much memory."""
    return TokenMemoryError(f"{name}: used {_gigabytes(taken)}, limit {_gigabytes(limit or 0)}")


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"


def _call_soon(loop: asyncio.AbstractEventLoop, call: Callable[[int], None], number: int) -> None:
    """Call a function of a loop, from another thread."""
    with suppress(RuntimeError):  # the loop is closed
        loop.call_soon_threadsafe(call, number)


def _started(
    command: Sequence[str | os.PathLike[str]] | str, options: CommandOptions, environment: Environment
) -> Child:
    _refuse_odd(command, shell=options.shell)
    if _left_behind:
        _left_behind[:] = [child for child in _left_behind if not child.reap()]
    start = Start(
        ["/bin/sh", "-c", command] if isinstance(command, str) else command,
        options.cwd,
        environment,
        takes_input=options.stdin is not None,
        cores=cores_to_start_on(),
    )
    try:
        # This blocks the loop until the program is loaded, a few tenths of a millisecond, as asyncio's own way does.
        return start_child(start)
    except (OSError, ValueError) as error:
        raise _not_started(command, options, error) from error


def _refuse_odd(command: Any, *, shell: bool) -> None:
    if isinstance(command, str) or shell:
        if not (isinstance(command, str) and shell):
            wanted = "a string with shell=True, or a list of the program and its arguments without"
            raise ConfigError(f"the command {shown(command)} cannot be run: it has to be {wanted}")
        return
    if not command:
        raise ConfigError("the command is empty")
    for position, argument in enumerate(command):
        if not isinstance(argument, (str, os.PathLike)):
            raise ConfigError(f"argument {position} of the command is no text: {shown(argument)}")


def _not_started(
    command: Sequence[str | os.PathLike[str]] | str, options: CommandOptions, error: OSError | ValueError
) -> CommandError:
    reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
    if isinstance(error, FileNotFoundError):
        if options.cwd is None or Path(options.cwd).is_dir():
            return CommandError(f"{_name(command)}: not found, or the interpreter that it names is not", NOT_FOUND)
        reason = f"there is no directory {shown(os.fspath(options.cwd))}"
    return CommandError(f"{_name(command)}: cannot be started: {reason}", NOT_EXECUTABLE)


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _name(command: Sequence[str | os.PathLike[str]] | str) -> str:
    """The command in a message: its program only, since arguments may hold secrets, and be long."""
    if isinstance(command, str):
        return "the shell command"
    name = os.fspath(command[0])
    return name if len(name) <= 200 else f"...{name[-200:]}"


def _signal_name(number: int) -> str:
    with suppress(ValueError):
        return Signals(number).name
    return f"signal {number}"


def _ignore(_result: CommandResult) -> None:
    pass
