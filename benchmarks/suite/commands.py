"""How fast is apicas, alone and beside others?

    python -m benchmarks list                        # contenders, workloads, sets of targets
    python -m benchmarks run                         # no-op tokens in a SQLite file, five times
    python -m benchmarks run --workers 1,16,64 --pilots 1,2,4 --store file
    python -m benchmarks run --contender apicas,raw_couch,picas --store couch --couch http://admin@host:5984
    python -m benchmarks run --workload sleep,process --seconds 0.1 --workers 64
    python -m benchmarks targets --couch http://admin@host:5984     # every target of the project, in one sitting
    python -m benchmarks table benchmarks/results/NAME.json         # Markdown
    python -m benchmarks plot benchmarks/results/NAME.json          # SVG
    python -m benchmarks compare OLD.json NEW.json

Every measurement has a process, and a pool, of its own. Cases are interleaved, so that what is compared is measured
side by side; more than one repeat shows how far a figure may be trusted. Ctrl-C keeps what is done. The password of a
server is $APICAS_PASSWORD; nobody's tokens are touched: databases are new, and deleted afterwards.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, TypeVar, cast
from urllib.parse import quote, urlsplit

import msgspec

from apicas.configuration import check_arguments
from apicas.exceptions import ConfigError
from benchmarks.contenders.environments import ROOT
from benchmarks.contenders.listing import CONTENDERS
from benchmarks.suite.comparing import compare
from benchmarks.suite.plans import FULL, QUICK, STORES, WORKLOADS, Sweep, stores_of
from benchmarks.suite.results import Store, load, save
from benchmarks.suite.running import Places
from benchmarks.suite.sitting import Sitting, begin
from benchmarks.suite.tables import markdown, verdict_table
from benchmarks.suite.targets import MODULES, SETS
from benchmarks.suite.verdicts import COUCH, REDIS

T = TypeVar("T")

RESULTS: Final = ROOT / "benchmarks" / "results"
_INTERRUPTED: Final = 130
_WRONG: Final = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; answers with the exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    chosen = _parser().parse_args(given)
    # A server that ends a session sends it too: what was made is deleted then as well.
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        check_arguments(given)
        code: int = chosen.command(chosen)
    except (ConfigError, OSError, ValueError, msgspec.DecodeError) as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return _WRONG
    except KeyboardInterrupt:
        print("interrupted; what was measured is kept", file=sys.stderr)
        return _INTERRUPTED
    finally:
        signal.signal(signal.SIGTERM, previous)
    return code


# What the words on the command line mean. ---------------------------------------------------------------------------


def _several(kind: Callable[[str], T], known: Sequence[T] = ()) -> Callable[[str], list[T]]:
    def parse(text: str) -> list[T]:
        try:
            values = [kind(word.strip()) for word in text.split(",")]
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r}: values, separated by commas, are wanted") from None
        if unknown := [str(value) for value in values if known and value not in known]:
            raise argparse.ArgumentTypeError(
                f"there is no {', '.join(unknown)}; there are {', '.join(map(str, known))}"
            )
        return values

    return parse


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return number


def _batch(text: str) -> int | None:
    return None if text == "auto" else int(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_run(commands)
    _add_targets(commands)
    for name, function, text in (
        ("table", _table, "write a result as Markdown to standard output"),
        ("plot", _plot, "draw what a result has the figures for"),
    ):
        command = commands.add_parser(name, help=text, description=text)
        command.set_defaults(command=function)
        command.add_argument("file", type=Path, help="a result, as JSON")
        if name == "plot":
            command.add_argument("--output", type=Path, metavar="DIR", help="where; default: beside the result")
            command.add_argument("--kind", choices=("svg", "png"), default="svg", help="default: svg")
    command = commands.add_parser("compare", help="compare two results", description="Compare two results.")
    command.set_defaults(command=_compare)
    command.add_argument("old", type=Path, help="a result, as JSON")
    command.add_argument("new", type=Path, help="another")
    command = commands.add_parser("list", help="show contenders, workloads and sets of targets")
    command.set_defaults(command=_list)
    return parser


def _add_run(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    run = commands.add_parser(
        "run",
        help="measure what you ask for",
        description="Measure all combinations of what is asked for. Values are separated by commas.",
    )
    run.set_defaults(command=_run)
    run.add_argument(
        "--contender", type=_several(str, list(CONTENDERS)), default=["apicas"], help="who; see `list`; default: apicas"
    )
    run.add_argument(
        "--store", type=_several(str, STORES), default=None, help=f"of {', '.join(STORES)}; default: all but memory"
    )
    run.add_argument(
        "--workload", type=_several(str, WORKLOADS), default=["noop"], help=f"of {', '.join(WORKLOADS)}; default: noop"
    )
    run.add_argument("--workers", type=_several(_count), default=[64], help="of each pilot; default: 64")
    run.add_argument("--pilots", type=_several(_count), default=[1], help="processes at the same time; default: 1")
    run.add_argument(
        "--batch",
        type=_several(_batch),
        default=[None],
        help="tokens claimed ahead, or documents per request of a raw loop; default: auto, each contender's choice",
    )
    run.add_argument("--synchronous", type=_several(str, ("NORMAL", "FULL")), default=["NORMAL"], help="of SQLite")
    run.add_argument(
        "--tokens", type=_count, default=10_000, help="in the pool; slow contenders get fewer; default: 10000"
    )
    run.add_argument("--seconds", type=float, default=0.1, help="of sleep, process and cpu; default: 0.1")
    run.add_argument("--size", type=_count, default=10_000, help="bytes of large and attachment; default: 10000")
    run.add_argument("--repeats", type=_count, default=5, help="default: 5")
    run.add_argument("--name", default="", help="of the result; default: the time")
    _add_places(run)


def _add_targets(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    targets = commands.add_parser(
        "targets",
        help="measure every target of the project",
        description="Measure every target of the project in one sitting. The exit code is 1 if one is not met.",
    )
    targets.set_defaults(command=_targets)
    names = [*SETS, *MODULES]
    targets.add_argument("--only", type=_several(str, names), default=names, help="some of them; see `list`")
    targets.add_argument("--repeats", type=_count, default=None, help="default: 5")
    targets.add_argument(
        "--quick", action="store_true", help="a run that shows that all works; its figures mean nothing"
    )
    targets.add_argument("--name", default="targets", help="of the result; default: targets")
    _add_places(targets)


def _add_places(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--couch", metavar="URL", help=f"a server: http://admin@host:5984, with $APICAS_PASSWORD; default: ${COUCH}"
    )
    command.add_argument("--redis", metavar="URL", help=f"default: ${REDIS}, else one of the benchmark's own")
    command.add_argument(
        "--directory", type=Path, metavar="DIR", help="for files, on a real disk; default: the one for temporary files"
    )
    command.add_argument("--limit", type=float, default=900.0, help="seconds of one measurement; default: 900")
    command.add_argument(
        "--output", type=Path, metavar="FILE", help="of the result; default: benchmarks/results/NAME.json"
    )


def _places(chosen: argparse.Namespace) -> Places:
    addresses: dict[Store, str] = {}
    couch = _with_password(chosen.couch) if chosen.couch else os.environ.get(COUCH)
    redis = chosen.redis or os.environ.get(REDIS)
    if couch:
        addresses["couch"] = couch.rstrip("/")
    if redis:
        addresses["redis"] = redis
    directory = chosen.directory or Path(tempfile.gettempdir())
    directory.mkdir(parents=True, exist_ok=True)
    quick = getattr(chosen, "quick", False)
    return Places(directory=directory.resolve(), addresses=addresses, limit=chosen.limit, quick=quick)


def _with_password(address: str) -> str:
    """A server's address, with the password that is not on the command line."""
    parts = urlsplit(address)
    password = os.environ.get("APICAS_PASSWORD")
    if parts.username is None or password is None:
        return address
    host = parts.netloc.rpartition("@")[2]
    return parts._replace(netloc=f"{quote(parts.username, safe='')}:{quote(password, safe='')}@{host}").geturl()


# What the commands do. ----------------------------------------------------------------------------------------------


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _run(chosen: argparse.Namespace) -> int:
    sweep = Sweep(
        contenders=chosen.contender,
        stores=_stores(chosen),
        workloads=chosen.workload,
        workers=chosen.workers,
        pilots=chosen.pilots,
        batches=chosen.batch,
        wal=chosen.synchronous,
        tokens=chosen.tokens,
        seconds=chosen.seconds,
        size=chosen.size,
    )
    cases = sweep.cases()
    if not cases:
        raise ConfigError("none of these contenders can do that: see `python -m benchmarks list`")
    sitting = _begin(chosen)
    sitting.measure(cases, chosen.repeats)
    sitting.finish()
    print(markdown(sitting.result))
    return 1 if any(one.failure for one in sitting.result.measurements) else 0


def _stores(chosen: argparse.Namespace) -> list[Store]:
    """The stores that were asked for; else those that the contenders have, and CouchDB only where one was named."""
    if chosen.store is not None:
        return cast("list[Store]", chosen.store)
    usable = {store for name in chosen.contender for store in stores_of(name)} - {"memory"}
    if not chosen.couch and COUCH not in os.environ:
        usable -= {"couch"}
    return [store for store in STORES if store in usable]


def _targets(chosen: argparse.Namespace) -> int:
    sizes = QUICK if chosen.quick else FULL
    if chosen.repeats is not None:
        sizes = replace(sizes, repeats=chosen.repeats)
    sitting = _begin(chosen)
    for name in chosen.only:
        _say(f"{name}: {_set_names()[name]}")
        if name in SETS:
            sitting.judge_set(name, SETS[name], sizes)
        else:
            sitting.judge_module(MODULES[name])
    sitting.finish()
    print(verdict_table(sitting.result.verdicts))
    return 1 if any(one.met is False for one in sitting.result.verdicts) else 0


def _begin(chosen: argparse.Namespace) -> Sitting:
    name = chosen.name or datetime.now(UTC).strftime("%Y-%m-%d-%H%M")
    path = chosen.output or RESULTS / f"{name}.json"
    wal = "NORMAL" if not hasattr(chosen, "synchronous") else " and ".join(chosen.synchronous)
    sitting = begin(path.stem, path, _places(chosen), wal, _say)
    save(sitting.result, path)  # now, and not after an hour: it may be impossible
    _say(f"{path.name}: {sitting.result.machine.processor}, {sitting.result.machine.cores} cores")
    return sitting


def _table(chosen: argparse.Namespace) -> int:
    print(markdown(load(chosen.file)), end="")
    return 0


def _plot(chosen: argparse.Namespace) -> int:
    try:
        from benchmarks.suite.plots import draw_all  # noqa: PLC0415 - needs matplotlib

        drawn = draw_all(load(chosen.file), chosen.output or chosen.file.parent, kind=chosen.kind)
    except ModuleNotFoundError as error:
        raise ConfigError(f"{error}: `pip install apicas[bench]` has what plots need") from error
    for path in drawn:
        print(path)
    if not drawn:
        _say("this result has nothing that a plot would show: one contender, and no sweep")
    return 0


def _compare(chosen: argparse.Namespace) -> int:
    print(compare(load(chosen.old), load(chosen.new)), end="")
    return 0


def _list(chosen: argparse.Namespace) -> int:
    del chosen
    print("Contenders (--contender), where they can be measured (--store), and on what (--workload):")
    for name, contender in CONTENDERS.items():
        print(f"  {name:16} {contender.what:32} {', '.join(stores_of(name)):22} {', '.join(contender.workloads)}")
    print("\nWorkloads: noop, nothing to do; sleep, a pause; process, a command; cpu, arithmetic in processes;")
    print("  large, a big document; attachment, a file attached.")
    print("\nTargets (`targets --only`):")
    for name, what in _set_names().items():
        print(f"  {name:16} {what}")
    return 0


def _set_names() -> dict[str, str]:
    sets = {name: one.what for name, one in SETS.items()}
    return sets | {name: one.what for name, one in MODULES.items()}
