"""`apicas bench`: how many tokens a second the pool's store takes, in a database of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from apicas.cli.parameters import PoolOption, YesOption

if TYPE_CHECKING:
    from apicas._bench.records import Workload

EPILOG = """\b
Your tokens are not touched: a new database named apicas-bench-... is made beside the pool's, on the same server or the
same disk, and deleted at the end, also after Ctrl-C. On CouchDB this takes an admin of the server, and the server is
busy meanwhile. Pilots are processes on this machine that begin at the same moment.

\b
Workloads: noop, nothing to do; sleep, a pause of --seconds; process, a command that takes --seconds; cpu, --seconds of
processor time, each in a process; large, documents of --size bytes; attachment, a file of --size bytes attached.

\b
Examples:
  apicas bench
  apicas bench --pool https://admin@couch.example:6984/survey --pilots 4 --workers 64
  apicas bench --workload sleep --seconds 30 --workers 128 --tokens 512
  apicas bench --yes --json | jq '.measurements[].rate'
"""


def bench(  # noqa: PLR0913 - typer makes an option of each
    *,
    pool: PoolOption = None,
    workloads: Annotated[
        str, typer.Option("--workload", metavar="NAME,...", help="What tokens are; see below.")
    ] = "noop,sleep,large,attachment",
    tokens: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="In the pool.", show_default="enough for some seconds")
    ] = None,
    workers: Annotated[int, typer.Option("--workers", "-w", min=1, help="Tokens worked at once, by each pilot.")] = 64,
    pilots: Annotated[int, typer.Option(metavar="N", min=1, help="Processes at the same time.")] = 1,
    seconds: Annotated[float, typer.Option(metavar="SECONDS", min=0, help="How long a token takes.")] = 0.1,
    size: Annotated[int, typer.Option(metavar="BYTES", min=1, help="Of large documents and attached files.")] = 10_000,
    repeats: Annotated[int, typer.Option(metavar="N", min=1, help="How often each is measured.")] = 3,
    yes: YesOption = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Write one JSON object, with every single measurement.")
    ] = False,
) -> None:
    """Measure how fast a pool is, in a database of its own."""
    import asyncio

    from apicas.cli.benching import Plan, run
    from apicas.cli.opening import configured

    plan = Plan(
        workloads=_workloads(workloads),
        tokens=tokens,
        workers=workers,
        pilots=pilots,
        seconds=seconds,
        size=size,
        repeats=repeats,
    )
    try:
        run(configured(pool), plan, yes=yes, as_json=as_json)
    except asyncio.CancelledError:  # SIGTERM
        raise typer.Abort from None


def _workloads(text: str) -> list[Workload]:
    from typing import cast, get_args

    from apicas._bench.records import Workload
    from apicas.exceptions import ConfigError

    known, names = get_args(Workload), text.split(",")
    if unknown := [name for name in names if name not in known]:
        raise ConfigError(f"there is no workload {', '.join(map(repr, unknown))}; there are {', '.join(known)}")
    return cast("list[Workload]", names)
