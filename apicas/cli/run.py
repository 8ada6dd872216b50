"""`apicas run`: run a pilot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any, Final, cast

import typer

from apicas.cli.command_line import (
    CommandAfterDashes,
    FileChoices,
    InputsOption,
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
from apicas.cli.parameters import OutboxOption, PoolOption, seconds, size
from apicas.exceptions import ConfigError

EPILOG = """\b
MODULE:NAME is a function of the token, async or plain, or a RunActor class; the module is looked for in the working
directory first, and may be a file: path/to/module.py:NAME. After -- comes a command; {field} in it stands for that
field of the token, {input.x} for a field inside its input, {_id} for its id. A command's stdout and stderr are attached
to its token, and its exit code decides whether it is done. Times are seconds, or 90s, 30m, 24h, 2d.

\b
With --resources a token may ask: cores, memory, gpus, scratch, time_request, and in `resources` anything else that is
named, as --resources auto,license=4. Commands get their cores (pinned where nobody else is on them), OMP_NUM_THREADS
and the like, and CUDA_VISIBLE_DEVICES. What can never start here, or would not be over in time, is left to others.

\b
SIGTERM, SIGUSR1 and Ctrl-C drain: nothing new is started, running tokens get --grace to finish, the others are handed
back, and the exit code is 4. A second signal ends all work at once: exit code 5. In a batch job the pilot drains by
itself in time before the end: exit code 0.

\b
Examples:
  apicas run fractals:Fractals --workers 64
  apicas run survey:reduce_image --max-total-time 11h --max-scrub 2
  apicas run --workers 8 -- ./process_task.sh {input}
  apicas run --shell -- 'gzip -c {input} > {input}.gz'
  apicas run --resources auto --request cores=2,memory=4G --walltime 12h -- ./simulate {input}
  apicas run -- sh -c {input}      # the input is itself a command line
  apicas run work:Actor --view Urgent/todo --view todo --endless
"""

COMMAND: Final = CommandAfterDashes


def run(  # noqa: PLR0913 - typer makes an option of each
    ctx: typer.Context,
    target: Annotated[
        str | None, typer.Argument(metavar="MODULE:NAME | -- COMMAND...", show_default=False, help="The work.")
    ] = None,
    *,
    pool: PoolOption = None,
    workers: Annotated[
        int | None, typer.Option("--workers", "-w", help="Tokens worked at once.", show_default="the number of cores")
    ] = None,
    resources: Annotated[
        str | None,
        typer.Option(
            metavar="auto|NAME=N,...",
            help="Instead of --workers: as many tokens at once as fit. auto: into what there is here.",
        ),
    ] = None,
    request: Annotated[
        str | None,
        typer.Option(metavar="NAME=N,...", help="What a token asks that does not say.", show_default="cores=1"),
    ] = None,
    request_fields: Annotated[
        str | None,
        typer.Option(metavar="NAME=FIELD,...", help="Where tokens say it, if these fields have other names."),
    ] = None,
    pin: Annotated[
        bool | None,
        typer.Option("--pin/--no-pin", help="Keep commands to their cores.", show_default="if nobody else is on them"),
    ] = None,
    walltime: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Time until the batch job ends.", show_default="what the batch system says"),
    ] = None,
    end_margin: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Drain so long before that.", show_default="--grace and 10 s"),
    ] = None,
    max_token_time: Annotated[
        str | None, typer.Option(metavar="TIME", help="Longest time for one token.", show_default="no limit")
    ] = None,
    max_total_time: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Start nothing after this time; what runs is finished.", show_default=False),
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option(metavar="N", help="End after so many tokens.", show_default=False)
    ] = None,
    max_scrub: Annotated[int, typer.Option(metavar="N", help="How often a failed token is tried again.")] = 0,
    retry_delay: Annotated[
        str, typer.Option(metavar="TIME", help="Wait before a failed token is tried again; doubles each time.")
    ] = "1s",
    max_token_memory: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE", help="Most memory for one token's commands, or worker process.", show_default="no limit"
        ),
    ] = None,
    executor: Annotated[
        str | None,
        typer.Option(
            metavar="auto|process",
            help="process: each token in a process of its own; auto: only those that may have killed a pilot.",
            show_default="auto, if the actor says nothing else",
        ),
    ] = None,
    executor_field: Annotated[
        str | None,
        typer.Option(metavar="FIELD", help="The field in which a token says it: auto or process.", show_default=False),
    ] = None,
    view: Annotated[
        list[str] | None,
        typer.Option(metavar="VIEW", help="Claim from this view; several, the most urgent first.", show_default="todo"),
    ] = None,
    endless: Annotated[bool, typer.Option("--endless", help="Wait for work instead of ending.")] = False,
    no_linger: Annotated[
        bool, typer.Option("--no-linger", help="End when todo is empty, also if others may give tokens back.")
    ] = False,
    in_order: Annotated[
        bool, typer.Option("--in-order", help="Claim the first tokens of a view, by its keys, and not just any.")
    ] = False,
    lock_timeout: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="How long a lock holds without a heartbeat; at least 10 s.",
            show_default="15m on CouchDB, 60s on SQLite",
        ),
    ] = None,
    foreign_lock_timeout: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Reclaim locks of PiCaS pilots after this time.", show_default="never"),
    ] = None,
    outbox: OutboxOption = None,
    on_lost_contact: Annotated[
        str,
        typer.Option(metavar="HOW", help="continue, or stop work when the pool was away for a whole lease."),
    ] = "continue",
    log_directory: Annotated[
        str | None,
        typer.Option("--logs", metavar="DIR", help="Write output into files here.", show_default="attach it to tokens"),
    ] = None,
    grace: Annotated[str, typer.Option(metavar="TIME", help="Time to finish after the first signal.")] = "20s",
    claim_ahead: Annotated[
        int | None,
        typer.Option(metavar="N", help="Hold at most so many tokens in stock.", show_default="half a second of work"),
    ] = None,
    shell: ShellOption = False,
    workdir: WorkdirOption = None,
    keep: KeepOption = None,
    inputs: InputsOption = None,
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
    """Run a pilot: claim tokens and work them, until there are no more."""
    from apicas._runtime.choices import FieldChoice
    from apicas._runtime.options import RunOptions
    from apicas._runtime.survey import check
    from apicas.cli import logs
    from apicas.cli.opening import configured
    from apicas.cli.running import Plan, execute

    logs.configure(verbose, log_format)
    options = RunOptions(
        workers=workers,
        resources=resources,
        request=request,
        request_fields=request_fields,
        pin=pin,
        walltime=walltime,
        end_margin=seconds(end_margin, "--end-margin"),
        max_token_time=seconds(max_token_time, "--max-token-time"),
        max_total_time=seconds(max_total_time, "--max-total-time"),
        max_tokens=max_tokens,
        max_scrub=max_scrub,
        retry_delay=seconds(retry_delay, "--retry-delay"),
        max_token_memory=size(max_token_memory, "--max-token-memory"),
        executor=cast("Any", FieldChoice(executor_field, executor or "auto") if executor_field else executor),
        on_lost_contact=cast("Any", on_lost_contact),
        logs=log_directory,
        events=events,
        grace=seconds(grace, "--grace") or 0.0,
        claim_ahead=claim_ahead,
        handle_signals=True,
    )
    check(options)
    configuration = configured(pool)
    files = FileChoices(workdir=workdir, keep=keep, inputs=inputs, outputs=outputs, outputs_to=outputs_to)
    plan = Plan(
        work=_work(target, command_after_dashes(ctx), shell=shell, files=files),
        options=options,
        views=tuple(view or ["todo"]),
        endless=endless,
        linger=not no_linger,
        in_order=in_order,
        lock_timeout=seconds(lock_timeout, "--lock-timeout") or configuration.lock_timeout,
        foreign_lock_timeout=seconds(foreign_lock_timeout, "--foreign-lock-timeout")
        or configuration.foreign_lock_timeout,
        outbox=outbox or configuration.outbox,
    )
    with served(plan.options, metrics_host, metrics_port) as watched:
        raise typer.Exit(execute(configuration, replace(plan, options=watched)))


def _work(target: str | None, command: Sequence[str] | None, *, shell: bool, files: FileChoices) -> Any:
    """What is done to each token.

    Raises:
        ConfigError: nothing was named, or two things, or what was named cannot be used.
    """
    if command is None:
        if target is None:
            raise ConfigError("nothing to run: name MODULE:NAME, or write a command after --")
        if shell or files.are_made:
            raise ConfigError("--shell, --workdir, --inputs and --outputs are for a command after --")
        from apicas.cli.target import load

        return load(target)
    if target is not None:
        raise ConfigError(f"both {target!r} and a command after --: a pilot does one thing")
    return command_runner(command, shell=shell, files=files)
