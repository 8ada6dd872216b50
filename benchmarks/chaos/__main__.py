"""Real pilots, real stores, and faults: SIGKILL, SIGSTOP, SIGTERM, a dead server, cut connections, a full disk.

    python -m benchmarks.chaos                            # SQLite, and a pouchdb-server where `make setup` put one
    python -m benchmarks.chaos --only kill --pilots 8 --tokens 100000 --seconds 0 --store sqlite
    python -m benchmarks.chaos --store http://admin@host:5984/chaos   # the password from $APICAS_PASSWORD
    python -m benchmarks.chaos --store pouchdb --only kill --picas 2

Each row is a run of its own on a new pool. What is counted is counted outside of the pool. The exit code is 1 if a
promise was broken, or if a row could not be run to its end.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, fields
from pathlib import Path

from benchmarks.chaos.couch import Address
from benchmarks.chaos.faults import SCRIPTS
from benchmarks.chaos.pilots import PICAS
from benchmarks.chaos.row import Row
from benchmarks.chaos.servers import POUCHDB, External, PouchDB
from benchmarks.chaos.table import LEGEND, markdown, report
from benchmarks.chaos.trial import Options, Store, left_out, run_row


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the rows that the command line asks for."""
    chosen = _parser().parse_args(arguments)
    names = chosen.only.split(",") if chosen.only else [name for name in SCRIPTS if name != "storm"]
    if unknown := set(names) - SCRIPTS.keys():
        sys.exit(f"no such row: {', '.join(sorted(unknown))}; there are {', '.join(SCRIPTS)}")
    if chosen.picas and not PICAS.exists():
        sys.exit("no PiCaS in .picas/: `make setup` installs it")
    rows = asyncio.run(_run(chosen, names))
    print()
    print(markdown(rows))
    print()
    print(LEGEND)
    problems = [f"{row.store}, {row.row}: {problem}" for row in rows for problem in row.problems]
    for problem in problems:
        print(f"NOT AS PROMISED: {problem}")
    if chosen.report:
        chosen.report.write_text(report(rows, _options(chosen)))
    if chosen.json:
        chosen.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    return 1 if problems or not rows else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.chaos", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--store", action="append", metavar="STORE", help="sqlite, pouchdb, or a server's URL; repeatable"
    )
    parser.add_argument("--only", metavar="ROWS", help=f"rows, separated by commas: {', '.join(SCRIPTS)}")
    for option in fields(Options):
        kind = type(option.default)
        parser.add_argument(f"--{option.name}", type=kind, default=option.default, help=f"default {option.default}")
    parser.add_argument("--server-pids", metavar="PIDS", help="processes of the server: numbers, or files with them")
    parser.add_argument("--server-command", metavar="COMMAND", help="what starts that server again")
    parser.add_argument("--directory", type=Path, help="keep the pilots' files and logs here")
    parser.add_argument("--report", type=Path, metavar="FILE", help="write a page of Markdown there, too")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there, too")
    return parser


def _options(chosen: argparse.Namespace) -> Options:
    return Options(**{option.name: getattr(chosen, option.name) for option in fields(Options)})


async def _run(chosen: argparse.Namespace, names: Sequence[str]) -> list[Row]:
    options = _options(chosen)
    rows: list[Row] = []
    async with AsyncExitStack() as stack:
        directory = chosen.directory or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="apicas-chaos-")))
        for place, kind in enumerate(chosen.store or ["sqlite", "pouchdb"]):
            store = await _open(kind, chosen, directory / f"server{place}", stack)
            if store is None:
                print("pouchdb: left out: no pouchdb-server in .pouchdb/, `make setup` installs it", flush=True)
                continue
            for name in names:
                if (reason := _left_out(name, store, options)) is not None:
                    print(f"{kind}, {name}: left out: {reason}", flush=True)
                    continue
                row = await run_row(name, store, options, directory / f"{place}-{name}")
                rows.append(row)
                print(markdown([row]).splitlines()[-1], flush=True)
                for problem in row.problems:
                    print(f"  {problem}", flush=True)
    return rows


def _left_out(name: str, store: Store, options: Options) -> str | None:
    if options.picas and store.address is None:
        return "PiCaS knows no SQLite"
    if options.picas and name not in {"baseline", "kill"}:
        return "PiCaS pilots that are killed leave locks for ever, and without a server they end"
    return left_out(name, store)


async def _open(kind: str, chosen: argparse.Namespace, directory: Path, stack: AsyncExitStack) -> Store | None:
    if kind == "sqlite":
        return Store(name="SQLite")
    if kind == "pouchdb":
        if not POUCHDB.exists():
            return None
        directory.mkdir(parents=True)  # noqa: ASYNC240 - a moment
        server = await stack.enter_async_context(PouchDB(directory))
        return Store(name="pouchdb", address=server.address, server=server)
    address = Address.parse(kind, os.environ.get("APICAS_PASSWORD"))
    external = None
    if chosen.server_pids and chosen.server_command:
        external = External(address, chosen.server_pids.split(","), chosen.server_command)
    return Store(name="CouchDB", address=address, server=external)


if __name__ == "__main__":
    sys.exit(main())
