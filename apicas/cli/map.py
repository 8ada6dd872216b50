"""`apicas map`: run a command for each line, and remember what is done."""

from __future__ import annotations

from typing import Annotated, Final

import typer

from apicas.cli.command_line import (
    CommandAfterDashes,
    FileChoices,
    KeepOption,
    OutputsOption,
    OutputsToOption,
    ShellOption,
    WorkdirOption,
    command_after_dashes,
    command_runner,
)
from apicas.cli.observing import (
    LOOPBACK,
    EventsOption,
    LogFormatOption,
    MetricsHostOption,
    MetricsPortOption,
    served,
)
from apicas.exceptions import ConfigError

EPILOG = """\b
The command runs once for each line, as many at once as there are cores. {} in it stands for the line, and {field} for a
field where lines are JSON objects or rows of a table; without either the line becomes the last argument. One argument
stays one argument, whatever the line holds. What the commands print comes out as they end.

\b
What is done is remembered in a pool of its own under .apicas in the working directory, by the inputs' name and the
command. After a break (Ctrl-C, a crash, a reboot) the same with --resume does what is not done, and what has failed
once more; lines that were added meanwhile are done as well. Without it nothing that was begun is touched.

\b
Exit code: 0 if every line is done, 1 if some have failed (they are listed), 4 or 5 after a signal.

\b
Examples:
  apicas map inputs.txt -- ./simulate --seed {}
  ls *.fits | apicas map -j 16 -- gzip {}
  apicas map table.csv -- ./fit --name {name} --mass {mass}
  apicas map inputs.txt --shell -- 'sort {} > {}.sorted'
  apicas map inputs.txt --resume --retries 2 -- ./simulate --seed {}
"""
COMMAND: Final = CommandAfterDashes


def map(  # noqa: A001, PLR0913 - the command's name; typer makes an option of each
    ctx: typer.Context,
    inputs: Annotated[str, typer.Argument(metavar="[FILE]", help="Lines to read; - for standard input.")] = "-",
    *,
    workers: Annotated[
        int | None,
        typer.Option("--workers", "-j", help="Commands at once.", show_default="the number of cores"),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Do what is not done, and what has failed.")] = False,
    again: Annotated[bool, typer.Option("--again", help="Forget what was done, and do all of it.")] = False,
    retries: Annotated[int, typer.Option(metavar="N", help="How often a failed line is tried again.")] = 0,
    keep_order: Annotated[
        bool, typer.Option("--keep-order", "-k", help="Print what the commands print in the order of the lines.")
    ] = False,
    max_token_time: Annotated[
        str | None, typer.Option(metavar="TIME", help="Longest time for one line.", show_default="no limit")
    ] = None,
    walltime: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Time until the batch job ends.", show_default="what the batch system says"),
    ] = None,
    grace: Annotated[str, typer.Option(metavar="TIME", help="Time to finish after Ctrl-C.")] = "20s",
    state: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="The pool's file.", show_default="one in .apicas, by inputs and command"),
    ] = None,
    format_: Annotated[
        str, typer.Option("--format", metavar="auto|jsonl|csv|tsv|text", help="How lines are read.")
    ] = "auto",
    shell: ShellOption = False,
    workdir: WorkdirOption = None,
    keep: KeepOption = None,
    outputs: OutputsOption = None,
    outputs_to: OutputsToOption = None,
    events: EventsOption = None,
    metrics_port: MetricsPortOption = None,
    metrics_host: MetricsHostOption = LOOPBACK,
    log_format: LogFormatOption = None,
    verbose: Annotated[
        int, typer.Option("--verbose", "-v", count=True, help="Log more; twice for every detail.", show_default=False)
    ] = 0,
) -> None:
    """Run a command for each line of a file, to the end; --resume goes on after a break."""
    from apicas._runtime.options import RunOptions
    from apicas.cli import logs
    from apicas.cli.lines import Reading
    from apicas.cli.map_output import CAPTURE
    from apicas.cli.mapping import Mapping, State, with_field, with_input
    from apicas.cli.parameters import seconds
    from apicas.cli.push import line_format

    command = command_after_dashes(ctx)
    if not command:
        raise ConfigError("nothing to run: write a command after --, as in: apicas map inputs.txt -- ./cmd {}")
    if resume and again:
        raise ConfigError("--resume goes on, and --again begins anew: give one of them")
    logs.configure(verbose, log_format)
    options = RunOptions(
        workers=workers,
        max_token_time=seconds(max_token_time, "--max-token-time"),
        max_scrub=retries,
        walltime=walltime,
        grace=seconds(grace, "--grace") or 0.0,
        handle_signals=True,
        events=events,
    )
    files = FileChoices(workdir=workdir, keep=keep, outputs=outputs, outputs_to=outputs_to and with_field(outputs_to))
    mapping = Mapping(
        inputs=inputs,
        reading=Reading(format=line_format(format_)),
        runner=command_runner(with_input(command), shell=shell, files=files, capture=CAPTURE),
        options=options,
        state=State.of(state, inputs, command, shell=shell),
        keep_order=keep_order,
    )
    with served(options, metrics_host, metrics_port) as mapping.options:
        raise typer.Exit(mapping.execute(resume=resume, again=again))
