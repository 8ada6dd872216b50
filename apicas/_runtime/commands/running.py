"""Commands: started without a shell, captured within bounds, and never left behind.

Rules:
- A command leads a session and a process group of its own: whatever ends the wait for it, RunningGroup ends that.
- All pipes are closed then, and the result is told in any case.
- Starting is one plain call: between the fork and the block that cleans up there is nothing that could be cancelled.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from typing_extensions import Unpack

from apicas._documents import shown
from apicas._runtime.attempts.current import memory_limit_here, running_token
from apicas._runtime.attempts.notes import Usage
from apicas._runtime.attempts.progress import VARIABLE as PROGRESS
from apicas._runtime.commands.messages import complaint, name_of, not_started
from apicas._runtime.commands.options import Command, CommandKeywords, CommandOptions, CommandResult
from apicas._runtime.processes.allotment import Environment, cores_to_start_on, with_variables
from apicas._runtime.processes.attempt import Attempt
from apicas._runtime.processes.children import Child, Start, close, start_child
from apicas._runtime.processes.pipes import Capture, InputPipe, OutputPipe
from apicas._runtime.processes.running import RunningGroup, reap_left_behind, resolve, running_supervision
from apicas._spelling import unknown_options
from apicas.exceptions import CommandError, ConfigError, TokenTimeoutError

if TYPE_CHECKING:
    from apicas._runtime.attempts.logs import AttemptLog


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
    if unknown := keywords.keys() - CommandKeywords.__annotations__.keys():
        raise TypeError(unknown_options("run_command()", unknown, CommandKeywords.__annotations__))
    options = CommandOptions(**keywords)
    result = await perform(command, options, _ignore)
    if options.check and not result.ok:
        raise CommandError(complaint(command, result), result.exit_code)
    return result


async def perform(
    command: Command,
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
        in_time = await running.group.wait_until(options.timeout)
    finally:
        try:
            await running.group.end()
        finally:
            result = running.close()
            _note(result)
            on_end(result)
    if running.group.excess is not None:
        raise running.group.excess_error(name_of(command))
    if not in_time:
        error = TokenTimeoutError(f"{name_of(command)}: not done within the time limit of {options.timeout:g} s")
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


class RunningCommand:
    """A command that has been started: its group and its pipes.

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
        self._silence: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.group = RunningGroup(
            leader, attempt, grace=options.grace, memory=memory_limit_here(), silence=self._silence
        )
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

    def close(self) -> CommandResult:
        """Close the pipes, with what is still in them taken; the result."""
        for pipe in self._outputs:
            pipe.close()
        if self._stdin is not None:
            self._stdin.close()
        self._close_unconnected()
        self.group.close()
        ended = self.group.how_it_ended()
        return CommandResult(
            exit_code=ended.exit_code,
            signal=ended.signal,
            stdout=self._stdout.content(),
            stderr=self._stderr.content(),
            seconds=ended.seconds,
            cpu_seconds=ended.cpu_seconds,
            peak_memory=ended.peak_memory,
            out_of_memory=ended.out_of_memory,
        )

    def _close_unconnected(self) -> None:
        """Close the pipes that connecting has failed for."""
        leader = self._leader
        close(*(leader.stdout, leader.stderr)[len(self._outputs) :])
        if self._stdin is None:
            close(leader.stdin)

    def _output_ended(self) -> None:
        if all(pipe.closed for pipe in self._outputs):
            resolve(self._silence)


def _started(command: Command, options: CommandOptions, environment: Environment) -> Child:
    _refuse_odd(command, shell=options.shell)
    reap_left_behind()
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
        raise not_started(command, options, error) from error


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


def _ignore(_result: CommandResult) -> None:
    pass
