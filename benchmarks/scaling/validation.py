"""The model beside a real CouchDB on this machine, and beside apicas's own pilots in virtual time.

    python -m benchmarks.scaling.validation [http://name:secret@host:5984] [--pilots 1,2,4,8] [--tokens 15000]

With a server: no-op tokens, worked by pilots that are processes on the same cores as the server, as they are in the
model here. Other load slows all of it alike, so each rate is also given in that of the raw loop (batches of 100), which
is measured first and last. Without one: the model and the real pilots over the same modelled server.
"""

from __future__ import annotations

import argparse
import asyncio
import os
from dataclasses import replace
from statistics import mean
from typing import Final

from benchmarks.contenders.apicas import place_of
from benchmarks.measuring import Sample, Trial
from benchmarks.scaling.cases import Case, Measured, lengths, run
from benchmarks.scaling.costs import Costs, Server
from benchmarks.scaling.engine import Engine, Process
from benchmarks.scaling.pilot import Rules
from benchmarks.scaling.pool import Tokens
from benchmarks.scaling.reality import measure_real
from benchmarks.scaling.report import length
from benchmarks.scaling.server import CouchModel

BATCH: Final = 100
RAW_TOKEN: Final = 0.00003
"""Seconds of a core for a token in the raw loop. 0.6 s for 20,000."""


def model_of_raw(tokens: int, server: Server, costs: Costs) -> float:
    """Tokens per second of the raw loop in the model: rows, bodies, locks and outcomes of a hundred, in turn."""
    engine = Engine()
    model, pool = CouchModel(engine, costs, server), Tokens(tokens)

    def loop() -> Process:
        while rows := pool.head(BATCH):
            yield lambda done: model.rows(BATCH, done)
            yield lambda done: model.bodies(BATCH, done)
            yield lambda done: model.write(len(rows), lambda: pool.lock(rows), done)
            locked = [engine.now] * len(rows)
            yield lambda done: model.cores.run(RAW_TOKEN * BATCH, done)
            yield lambda done, locked=locked: model.write(len(rows), lambda: pool.finish(rows), done, earlier=locked)

    engine.start(loop())
    engine.run(1e9, lambda: pool.done == tokens)
    return tokens / engine.now


def noop_case(pilots: int, tokens: int, cores: int) -> Case:
    """No-ops by pilots on the server's own cores."""
    return Case(
        name="no-op",
        pilots=pilots,
        seconds=0.0,
        tokens=tokens,
        whole=True,
        mixed=False,
        beside=True,
        server=Server(cores=cores),
    )


def beside_server(store: str, numbers: list[int], tokens: int) -> None:
    """Print rates of the server and of the model."""
    from apicas._bench.measure import measure  # noqa: PLC0415 - only with a server
    from benchmarks.contenders.raw_couch import measure as measure_raw  # noqa: PLC0415

    cores, costs = len(os.sched_getaffinity(0)), Costs()
    raw = Trial(contender="raw_couch", tokens=tokens, batch=BATCH, store=store, directory="/tmp")
    rates = [measure_raw(raw).rate]
    samples: dict[int, Sample] = {}
    for number in numbers:
        trial = Trial(contender="apicas", pilots=number, tokens=tokens, store=store, directory="/tmp")
        samples[number] = asyncio.run(measure(trial, place_of(trial)))
    rates.append(measure_raw(raw).rate)
    modelled_raw = model_of_raw(tokens, Server(cores=cores), costs)
    print(f"raw loop: {rates[0]:,.0f} and {rates[1]:,.0f}/s; in the model {modelled_raw:,.0f}/s")
    for number, sample in samples.items():
        model = run(noop_case(number, tokens, cores))
        lost = (sample.lost_races or 0) / (tokens + (sample.lost_races or 0))
        print(
            f"{number} pilots: {sample.rate:,.0f}/s, {sample.rate / mean(rates):.2f} of the raw loop, "
            f"{(sample.requests or 0) / tokens:.3f} requests a token, {lost:.1%} lost; "
            f"in the model {model.tokens_per_second:,.0f}/s, {model.tokens_per_second / modelled_raw:.2f}, "
            f"{model.requests_per_token:.3f}, {model.lost_share:.1%}"
        )


def beside_pilots() -> None:
    """Print what the model says beside what apicas's own pilots do, over the same server in virtual time."""
    for pilots, seconds, tokens in (
        (1, 0.0, 20_000),
        (10, 0.0, 40_000),
        (1, 1.0, 4000),
        (10, 1.0, 20_000),
        (10, 60.0, 12_000),
    ):
        for rules in (Rules(view="head"), Rules()):
            case = replace(noop_case(pilots, tokens, 2), seconds=seconds, rules=rules, beside=False)
            _print_pair(case, run(case), measure_real(case, Costs(), case.server, lengths(seconds)))


def _print_pair(case: Case, model: Measured, real: Measured) -> None:
    print(
        f"{case.pilots} x {length(case.seconds)}, {case.rules.view}: model {model.tokens_per_second:,.0f}/s, "
        f"{model.requests_per_token:.3f} requests a token, {model.lost_share:.1%} lost, claim {model.claim_p50:.3f} s; "
        f"real pilots {real.tokens_per_second:,.0f}/s, {real.requests_per_token:.3f}, {real.lost_share:.1%}, "
        f"{real.claim_p50:.3f} s",
        flush=True,
    )


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", nargs="?", help="of a CouchDB on this machine")
    parser.add_argument("--pilots", default="1,2,4,8")
    parser.add_argument("--tokens", type=int, default=15_000)
    options = parser.parse_args()
    if options.store:
        beside_server(options.store, [int(part) for part in options.pilots.split(",")], options.tokens)
    else:
        beside_pilots()


if __name__ == "__main__":
    main()
