"""What does a claim take in a big pool? One of 1,000,000 tokens beside one of 1,000, indexes built.

    python -m benchmarks.claiming                         # SQLite, and the CouchDB of $BENCH_COUCH
    python -m benchmarks.claiming --tokens 100000 --json

Claims of 16 tokens, in turns from one pool and the other, 50 times each; what is claimed stays locked. That is done
four times, each with a new small pool, since the speed of a server changes within the second that 50 claims take.
Filling the big pool takes minutes on CouchDB.

On CouchDB the trees of a big pool are deeper: to write 16 neighbouring documents takes 1.25 to 1.45 times as long as in
the small one, and to read them by `_bulk_get` 1.17 times, whoever does it.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

import msgspec

from apicas._bench.measure import build_indexes
from apicas._bench.pools import Place, own_pool
from apicas._bench.statistics import paired_ratios, quantile, summarize
from apicas._runtime.dedicated import loop_factory
from apicas.iterators import BasicViewIterator
from benchmarks.suite.verdicts import COUCH, DIRECTORY, QUICK, Verdict

SMALL: Final = 1_000
BIG: Final = 1_000_000
_QUICK: Final = 5_000
CLAIMS: Final = 50
ROUNDS: Final = 4
BATCH: Final = 16
LIMIT: Final = 1.2
# The first claims of a pilot find cold caches, on both sides.
_WARM: Final = 3


async def claim_times(
    place: Place, sizes: Sequence[int], claims: int = CLAIMS, rounds: int = ROUNDS
) -> list[list[float]]:
    """Seconds of each claim, by pool.

    Args:
        place: where the pools are made.
        sizes: the numbers of tokens of the small pool and of the big one.
        claims: from each in a round, in turns.
        rounds: how many.
    """
    times: list[list[float]] = [[] for _ in sizes]
    async with AsyncExitStack() as stack:
        big = await _filled(place, sizes[1], stack)
        for _ in range(rounds):
            async with AsyncExitStack() as for_this_round:
                small = await _filled(place, sizes[0], for_this_round)
                for own, seconds in zip(times, await _in_turns((small, big), claims), strict=True):
                    own.extend(seconds[_WARM:])
    return times


async def _in_turns(iterators: Sequence[BasicViewIterator], claims: int) -> list[list[float]]:
    times: list[list[float]] = [[] for _ in iterators]
    for _ in range(claims):
        for iterator, own in zip(iterators, times, strict=True):
            began = time.perf_counter()
            tokens = await iterator.claim(BATCH)
            own.append(time.perf_counter() - began)
            if not tokens:
                raise RuntimeError("a pool that is not empty gave no token")
    return times


async def _filled(place: Place, tokens: int, stack: AsyncExitStack) -> BasicViewIterator:
    pool = await stack.enter_async_context(own_pool(place))
    client = await stack.enter_async_context(pool.opened())
    await client.upload({"input": number} for number in range(tokens))
    await build_indexes(client)
    iterator = BasicViewIterator(client, linger=False, outbox=False)
    return await stack.enter_async_context(iterator)


def judge(store: str, sizes: Sequence[int], times: Sequence[Sequence[float]]) -> Verdict:
    """Whether the big pool's claims take as long as the small one's."""
    small, big = times
    ratios = summarize(paired_ratios(big, small))
    medians = [quantile(sorted(own), 0.5) for own in (small, big)]
    ratio = medians[1] / medians[0]
    figures: dict[str, Any] = {
        f"ms in {size:,}": round(median * 1000, 2) for size, median in zip(sizes, medians, strict=True)
    } | {"p95 in ms": [round(quantile(sorted(own), 0.95) * 1000, 2) for own in times]}
    if ratios is not None:
        figures["middle half of the ratios"] = [round(ratios.lower_quartile, 2), round(ratios.upper_quartile, 2)]
    return Verdict(
        name=f"{store}, claim of {BATCH} in a pool of {sizes[1]:,}",
        figures=figures,
        target=f"<= {LIMIT} x the time in a pool of {sizes[0]:,}",
        ratio=ratio,
        met=ratio <= LIMIT,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON object per store")
    parser.add_argument("--tokens", type=int, default=_QUICK if os.environ.get(QUICK) else BIG, help="of the big pool")
    chosen = parser.parse_args(arguments)
    directory = Path(os.environ.get(DIRECTORY) or tempfile.gettempdir())
    couch, sizes = os.environ.get(COUCH), (SMALL, chosen.tokens)
    places = {"SQLite": Place(directory=directory)}
    if couch:
        places["CouchDB"] = Place(server=couch.rstrip("/"), directory=directory)
    for store, place in places.items():
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            verdict = judge(store, sizes, runner.run(claim_times(place, sizes)))
        if chosen.json:
            print(msgspec.json.encode(verdict).decode(), flush=True)
        else:
            print(f"{verdict.name}: {verdict.ratio:.3f} ({verdict.target}): {'met' if verdict.met else 'NOT met'}")
            print(f"  {verdict.figures}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
