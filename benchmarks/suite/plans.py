"""What is measured together: sweeps that somebody asks for, and the sets behind the targets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Final, Literal, get_args

from benchmarks.contenders.listing import CONTENDERS
from benchmarks.measuring import Workload
from benchmarks.suite.results import Case, Store

WORKLOADS: Final[tuple[Workload, ...]] = get_args(Workload)
STORES: Final[tuple[Store, ...]] = get_args(Store)
_SLOW: Final = {"picas": 20, "saq": 2, "arq": 2, "streaq": 4, "taskiq": 2, "huey": 1, "huey_redis": 2}
"""Contenders that get a part of the tokens, so that a repeat takes seconds: their rate does not depend on how many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """All combinations of these. What a contender cannot do is left out.

    Args:
        contenders: names of the list.
        stores: where.
        workloads: what tokens are.
        workers: of each pilot.
        pilots: processes at the same time.
        batches: tokens claimed ahead, or documents per request; None for a contender's own choice.
        wal: SQLite's `synchronous`; means nothing on other stores.
        tokens: in the pool; slow contenders get fewer.
        seconds: that a token takes, for the workloads that take time.
        size: bytes of a large document, or of the file that is attached.
    """

    contenders: Sequence[str]
    stores: Sequence[Store]
    workloads: Sequence[Workload] = ("noop",)
    workers: Sequence[int] = (64,)
    pilots: Sequence[int] = (1,)
    batches: Sequence[int | None] = (None,)
    wal: Sequence[Literal["NORMAL", "FULL"]] = ("NORMAL",)
    tokens: int = 10_000
    seconds: float = 0.1
    size: int = 10_000

    def cases(self) -> list[Case]:
        """The cases: what is to be compared stands together."""
        combinations = product(
            self.workloads, self.workers, self.pilots, self.batches, self.wal, self.stores, self.contenders
        )
        return list(dict.fromkeys(self._case(*one) for one in combinations if self._is_possible(*one)))

    def _case(
        self,
        workload: Workload,
        workers: int,
        pilots: int,
        batch: int | None,
        wal: Literal["NORMAL", "FULL"],
        store: Store,
        contender: str,
    ) -> Case:
        return Case(
            contender=contender,
            store=store,
            workload=workload,
            tokens=tokens_for(contender, self.tokens),
            workers=workers,
            pilots=pilots,
            batch=batch,
            seconds=self.seconds if workload in {"sleep", "process", "cpu"} else 0.0,
            size=self.size if workload in {"large", "attachment"} else 0,
            wal=wal if store == "file" else "NORMAL",
        )

    @staticmethod
    def _is_possible(
        workload: Workload, _workers: int, pilots: int, _batch: int | None, _wal: str, store: Store, contender: str
    ) -> bool:
        if store == "memory" and pilots > 1:
            return False
        return store in stores_of(contender) and workload in CONTENDERS[contender].workloads


def stores_of(contender: str) -> tuple[Store, ...]:
    """Where a contender can be measured."""
    own: tuple[Store, ...] = ("memory",) if contender == "apicas" else ()
    return (*CONTENDERS[contender].stores, *own)


def tokens_for(contender: str, tokens: int) -> int:
    """How many tokens a contender gets where a quick one gets so many."""
    return max(tokens // _SLOW.get(contender, 1), 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How much is measured for the targets."""

    tokens: int = 20_000
    file_tokens: int = 50_000
    """In a file, which is an order of magnitude quicker."""
    uploaded: int = 100_000
    streamed: int = 1_000_000
    repeats: int = 5


FULL: Final = Sizes()
QUICK: Final = Sizes(tokens=400, file_tokens=1_000, uploaded=1_000, streamed=20_000, repeats=1)
QUEUES: Final = ("saq", "arq", "streaq", "huey")
"""Those of which the best is the baseline."""


def case_of(contender: str, store: Store, tokens: int, *, pilots: int = 1) -> Case:
    """A case of no-op tokens as the targets have it."""
    return Case(contender=contender, store=store, tokens=tokens_for(contender, tokens), pilots=pilots)


def queue_store(queue: str) -> Store:
    """The store of a queue as the targets mean it."""
    return "file" if queue == "huey" else "redis"
