"""What CouchDB's answers mean, and what its clock says: plain functions, without a server."""

from __future__ import annotations

from typing import Any

import pytest

from apicas.clients.couch.answers import bodies, change_of, reason_of, view_parameters, winner
from apicas.clients.couch.clock import StoreClock
from apicas.clients.port import StoredChange, ViewQuery
from apicas.exceptions import PoolUnavailableError


def leaf(rev: str, **fields: Any) -> dict[str, Any]:
    return {"ok": {"_id": "t", "_rev": rev, **fields}}


@pytest.mark.parametrize(
    ("leaves", "expected"),
    [
        ([], None),
        ([{}], None),
        ([leaf("2-a", _deleted=True)], None),
        ([leaf("1-a"), leaf("2-a", _deleted=True)], "1-a"),
        ([leaf("9-f"), leaf("10-a"), leaf("2-x")], "10-a"),
        ([leaf("2-a"), leaf("2-b"), leaf("1-c")], "2-b"),
        ([{"error": {"id": "t", "error": "not_found", "reason": "missing"}}], None),
    ],
)
def test_the_winner_is_couchdbs(leaves: list[dict[str, Any]], expected: str | None) -> None:
    """Not deleted, then the longest history, counted as a number, then the last digest."""
    found = winner(leaves)
    assert (found and found["_rev"]) == expected


def test_a_leaf_that_cannot_be_read_is_an_error() -> None:
    """Missing is what the server says is missing, nothing else."""
    with pytest.raises(PoolUnavailableError, match="late"):
        bodies([{"id": "t", "docs": [{"error": {"id": "t", "error": "timeout", "reason": "too\nlate"}}]}])


def test_a_query_keeps_null_apart_from_nothing() -> None:
    """None is a key that sorts before all others."""
    assert view_parameters(ViewQuery()) == {}
    query = ViewQuery(limit=0, start_key=None, end_key=["a", {}], descending=True, reduce=False, fresh=False)
    assert view_parameters(query) == {
        "limit": 0, "startkey": None, "endkey": ["a", {}], "descending": True, "reduce": False, "update": "lazy",
    }  # fmt: skip


def test_a_line_of_the_feed() -> None:
    """A change, a heartbeat, an end, an error, or half a line."""
    line = b'{"seq":12,"id":"t","changes":[{"rev":"1-a"},{"rev":"1-0"}]}\n'
    assert change_of(line) == StoredChange("12", "t", "1-a")
    assert change_of(b"\n") is None
    for broken in (b'{"last_seq":12,"pending":0}\n', b'{"error":"x","reason":"y"}\n', b'{"seq":'):
        with pytest.raises(PoolUnavailableError):
            change_of(broken)


def test_a_reason_is_one_line() -> None:
    """Whatever came, a page of a proxy included."""
    assert reason_of(500, b'{"error":"a","reason":"b\\nc"}') == "500 a: b c"
    assert reason_of(502, b"<html>\n</html>") == "502"
    assert reason_of(500, b"[1]") == "500"


NOVEMBER = "Tue, 14 Nov 2023 22:13:20 GMT"  # 1_700_000_000


def test_the_clock_is_narrowed_by_every_answer() -> None:
    """A date is cut to seconds, and an answer takes time; what answers have in common is narrower than either."""
    clock = StoreClock(lambda: 1_700_000_000.0)
    assert clock.offset == 0
    clock.learn(NOVEMBER, 1_700_000_000.0, 1_700_000_000.2)  # from -0.2 to 1.0
    assert clock.offset == pytest.approx(0.4, abs=1e-6)
    clock.learn(NOVEMBER, 1_700_000_000.9, 1_700_000_000.9)  # from -0.9 to 0.1
    assert clock.offset == pytest.approx(-0.05, abs=1e-6)
    assert clock.time() == pytest.approx(1_700_000_000 - 0.05, abs=1e-6)


def test_a_clock_that_was_set_is_learned_anew() -> None:
    """An answer that contradicts the others is believed, as the latest."""
    clock = StoreClock(lambda: 0.0)
    clock.learn(NOVEMBER, 1_700_000_000.0, 1_700_000_000.0)
    clock.learn(NOVEMBER, 1_700_000_100.0, 1_700_000_100.0)
    assert clock.offset == pytest.approx(-99.5)


@pytest.mark.parametrize("date", [None, "", "yesterday", "Thu, 01 Jan 1970 00:00:10 GMT", "Tue, 14 Nov 99999"])
def test_a_date_that_is_nonsense_is_ignored(date: str | None) -> None:
    """So is a server whose clock was never set."""
    clock = StoreClock(lambda: 5.0)
    clock.learn(date, 1.0, 2.0)
    assert clock.time() == 5.0
