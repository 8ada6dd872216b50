"""Metrics, scraped over HTTP while a pilot runs."""

from __future__ import annotations

import asyncio
import socket
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest

import apicas
from apicas.events import Ended
from apicas.metrics import ENDINGS, MISSING, Metrics


def scrape(address: str) -> dict[str, float]:
    with urllib.request.urlopen(address, timeout=30) as answer:
        lines = answer.read().decode().splitlines()
    pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    return {name: float(value) for name, value in pairs}


async def test_a_scrape_says_what_the_pilot_does() -> None:
    pytest.importorskip("prometheus_client")
    metrics = Metrics()
    seen: list[dict[str, float]] = []

    async def work(token: apicas.Token[Any]) -> None:
        if token.id == "t0":
            seen.append(await asyncio.to_thread(scrape, address))
        elif token.id == "t1":
            raise ValueError("bad")

    async with apicas.MemoryClient() as client:
        await client.save([{"_id": f"t{i}", "type": "token", "lock": 0, "done": 0} for i in range(10)])
        with metrics.serving() as address:
            assert address.startswith("http://127.0.0.1:")
            await apicas.run(work, client, workers=3, observers=[metrics])
            after = scrape(address)
    (during,) = seen
    assert during["apicas_workers"] == 3
    assert during["apicas_tokens_running"] >= 1
    assert during["apicas_tokens_held"] >= during["apicas_tokens_running"]
    assert after["apicas_tokens_claimed_total"] == after["apicas_tokens_started_total"] == 10
    assert after['apicas_tokens_ended_total{ending="done"}'] == 9
    assert after['apicas_tokens_ended_total{ending="failed"}'] == 1
    assert after['apicas_tokens_ended_total{ending="lost"}'] == 0
    assert after['apicas_token_seconds_count{ending="done"}'] == 9
    assert after["apicas_tokens_held"] == after["apicas_tokens_running"] == 0
    with pytest.raises(OSError, match="refused"):
        scrape(address)


def test_a_port_that_is_taken_is_said() -> None:
    pytest.importorskip("prometheus_client")
    refused = pytest.raises(apicas.ConfigError, match="cannot be served")
    with socket.create_server(("127.0.0.1", 0)) as taken, refused, Metrics().serving(port=taken.getsockname()[1]):
        pass


def test_the_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(apicas.ConfigError, match=r"apicas\[metrics\]") as raised:
        Metrics()
    assert str(raised.value) == MISSING


def test_each_metric_is_named_as_prometheus_asks_has_few_series_and_is_documented() -> None:
    """Names of its conventions, no label that grows with the tokens, and a line in docs/observability.md."""
    pytest.importorskip("prometheus_client")
    from prometheus_client import generate_latest
    from prometheus_client.parser import text_string_to_metric_families

    metrics = Metrics()
    for number in range(100):
        for kind in Ended.__subclasses__():
            metrics(kind(time=1.0, pilot=f"p{number}", token=f"t{number}", began=0.0, seconds=1.0))
    page = (Path(apicas.__file__).parents[1] / "docs" / "observability.md").read_text()
    families = [
        family
        for family in text_string_to_metric_families(generate_latest(metrics.registry).decode())
        if not family.name.endswith("_created")
    ]
    assert len(families) == 9
    for family in families:
        assert family.documentation
        assert f"`{family.name}{'_total' if family.type == 'counter' else ''}" in page
        labels = {name for sample in family.samples for name in sample.labels}
        assert labels <= {"ending", "le"}
        assert len({sample.labels.get("ending") for sample in family.samples}) <= len(ENDINGS)
        if family.type == "histogram":
            assert family.name.endswith("_seconds")
    assert {kind.kind for kind in Ended.__subclasses__()} == set(ENDINGS)
