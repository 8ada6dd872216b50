"""Uploads: several bulks on their way, and told of in the order of the stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from functools import partial
from typing import Any

import pytest

from apicas.clients.bulks import EncodedDocument
from apicas.clients.port import SaveResult, SaveStatus, UploadReport
from apicas.clients.uploading import Bounds, Upload
from apicas.testing import run_virtual

Run = Callable[[Any], Coroutine[Any, Any, UploadReport]]
WRITTEN, TAKEN = SaveResult(SaveStatus.WRITTEN, "1-a"), SaveResult(SaveStatus.CONFLICT)


class Store:
    """Writes bulks, each as long as it is told to, and remembers what it was asked."""

    def __init__(
        self, seconds: Sequence[float] = (), *, failing: Sequence[int] = (), taken: Sequence[str] = ()
    ) -> None:
        self.seconds = seconds
        self.failing = failing
        self.taken = taken
        self.bulks: list[list[str]] = []
        self.under_way = self.most_under_way = self.cancelled = 0

    async def write(self, bulk: Sequence[EncodedDocument]) -> list[SaveResult]:
        """Write a bulk."""
        number = len(self.bulks)
        self.bulks.append([encoded.id for encoded in bulk])
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            await asyncio.sleep(self.seconds[number] if number < len(self.seconds) else 1.0)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.under_way -= 1
        if number in self.failing:
            raise OSError(f"bulk {number}")
        return [TAKEN if encoded.id in self.taken else WRITTEN for encoded in bulk]


def _new(content: Any) -> EncodedDocument | SaveResult:
    if content is None:
        return SaveResult(SaveStatus.REJECTED, reason="none")
    return EncodedDocument({"_id": content}, content.encode())


def _upload(store: Store, *, bulks: int = 2, seen: list[int] | None = None) -> Run:
    def progress(report: UploadReport) -> None:
        if seen is not None:
            seen.append(report.uploaded)

    return Upload(_new, store.write, Bounds(documents=2, bytes=1_000, bulks=bulks), progress).run


@pytest.mark.parametrize("bulks", [1, 2, 3])
def test_no_more_bulks_are_under_way_than_is_said(bulks: int) -> None:
    store = Store()
    report = run_virtual(partial(_upload(store, bulks=bulks), [f"t{number}" for number in range(15)]))
    assert (report.uploaded, report.rejected) == (15, 0)
    assert store.most_under_way == bulks
    assert store.bulks[0] == ["t0", "t1"]
    assert store.bulks[-1] == ["t14"]


def test_what_became_of_a_bulk_is_told_after_the_one_before() -> None:
    store, seen = Store([3.0, 1.0, 2.0], taken=["t0", "t3", "t4"]), list[int]()
    contents = ["t0", "t1", "t2", "t3", "t4"]
    report = run_virtual(partial(_upload(store, seen=seen), contents))
    assert [(reject.position, reject.id) for reject in report.rejects] == [(0, "t0"), (3, "t3"), (4, "t4")]
    assert seen == [1, 2, 2]


def test_positions_are_those_of_the_stream() -> None:
    store = Store(taken=["t3"])
    report = run_virtual(partial(_upload(store), ["t0", None, "t2", "t3", None]))
    assert sorted((reject.position, reject.id, reject.reason) for reject in report.rejects if reject.id is None) == [
        (1, None, "none"),
        (4, None, "none"),
    ]
    assert [(reject.position, reject.id) for reject in report.rejects if reject.id] == [(3, "t3")]
    assert (report.uploaded, report.rejected) == (2, 3)


def test_an_empty_stream_is_told_of_once() -> None:
    store, seen = Store(), list[int]()
    report = run_virtual(partial(_upload(store, seen=seen), []))
    assert (report.uploaded, store.bulks, seen) == (0, [], [0])


@pytest.mark.parametrize("seconds", [[1.0, 5.0, 5.0], [5.0, 1.0, 1.0]])
def test_the_first_error_ends_an_upload_after_what_is_under_way(seconds: list[float]) -> None:
    store, seen = Store(seconds, failing=[0, 1]), list[int]()
    with pytest.raises(OSError, match="bulk 0"):
        run_virtual(partial(_upload(store, seen=seen), [f"t{number}" for number in range(20)]))
    assert len(store.bulks) == 2
    assert (store.under_way, store.cancelled, seen) == (0, 0, [])


def test_an_error_of_the_last_bulk_comes_out() -> None:
    store = Store(failing=[2])
    with pytest.raises(OSError, match="bulk 2"):
        run_virtual(partial(_upload(store), [f"t{number}" for number in range(5)]))


def test_what_is_under_way_when_the_stream_fails_is_finished() -> None:
    store, seen = Store(failing=[1]), list[int]()

    def stream() -> Iterator[str]:
        yield from ["t0", "t1", "t2", "t3", "t4"]
        raise ValueError("the stream")

    with pytest.raises(ValueError, match="the stream"):
        run_virtual(partial(_upload(store, seen=seen), stream()))
    assert (len(store.bulks), store.under_way, store.cancelled, seen) == (2, 0, 0, [2])


@pytest.mark.parametrize("waits_for", ["the store", "the stream"])
def test_an_upload_that_is_cancelled_cancels_what_is_under_way(waits_for: str) -> None:
    store = Store([10.0, 10.0])

    async def stream() -> AsyncIterator[str]:
        for number in range(5):
            yield f"t{number}"
        if waits_for == "the stream":
            await asyncio.sleep(100.0)
        yield "t5"

    async def main() -> None:
        task = asyncio.create_task(_upload(store)(stream()))
        await asyncio.sleep(1.0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run_virtual(main)
    assert (len(store.bulks), store.under_way, store.cancelled) == (2, 0, 2)
