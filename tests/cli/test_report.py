"""`apicas report`, and the options that make events, metrics and logs as JSON."""

from __future__ import annotations

import json
import random
import re
import shutil
import statistics
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from apicas._report import summing
from apicas._report.page import page
from apicas._report.reading import Reading, files
from apicas._report.summing import Bins, Durations, Summary
from apicas._report.texts import clipped, duration, number
from tests.cli.program import Program

EVIL = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
VOID = {"meta", "rect", "line"}


class Balanced(HTMLParser):
    """Notes what a page is made of, and fails where elements do not end."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def parsed(text: str) -> Balanced:
    parser = Balanced()
    parser.feed(text)
    assert parser.open == []
    return parser


def event(kind: str, time: float, **fields: Any) -> str:
    return json.dumps({"schema": 1, "event": kind, "time": 1.8e9 + time, "pilot": "p1", **fields})


def ending(kind: str, began: float, seconds: float, **fields: Any) -> str:
    return event(kind, began + seconds, began=1.8e9 + began, seconds=seconds, **{"worker": 0, "token": "t", **fields})


def summed(path: Path, *lines: str) -> tuple[Summary, Reading]:
    path.write_text("".join(f"{line}\n" for line in lines))
    reading, summary = Reading(files([str(path)])), Summary()
    summary.take(reading.lines())
    summary.finish()
    return summary, reading


def test_a_run_becomes_a_page(apicas: Program) -> None:
    apicas("push", "-", stdin="".join(f"{number}\n" for number in range(12)))
    run = apicas("run", "-w", "3", "--events", "events/", "--", "sh", "-c", 'test "$1" != 5', "sh", "{input}")
    assert run.code == 0, run.err
    result = apicas("report", "events", "-o", "page.html", "--title", "A & B")
    assert result.code == 0, result.err
    assert result.out == "wrote page.html: 38 events of 1 pilot\n"
    page = parsed((apicas.directory / "page.html").read_text())
    for heading in ("A & B", "Throughput", "Tokens at work", "Workers", "Durations", "Failures by reason", "Pilots"):
        assert heading in page.text
    bars = [found for tag, found in page.elements if tag == "rect" and "exit" not in str(found)]
    tips = [str(found.get("data-tip")) for found in bars]
    assert sum(tip.startswith("token_") for tip in tips) == 12
    assert "exit code 1" in page.text
    assert not [tag for tag, found in page.elements if "src" in found or "href" in found]


def test_map_writes_events_too(apicas: Program) -> None:
    apicas.write("lines.txt", "a\nb\n")
    assert apicas("map", "lines.txt", "--events", "e.jsonl", "--", "true").code == 0
    kinds = [json.loads(line)["event"] for line in (apicas.directory / "e.jsonl").read_text().splitlines()]
    assert kinds[0] == "pilot_started"
    assert kinds[-1] == "pilot_ended"
    assert kinds.count("done") == 2


def test_what_comes_from_tokens_is_text(tmp_path: Path) -> None:
    lines = [
        event("pilot_started", 0, pilot=EVIL[:190], hostname=EVIL, workers=2),
        event("started", 0, pilot=EVIL[:190], token=EVIL, worker=1),
        ending("failed", 0, 1, pilot=EVIL[:190], token=EVIL, reason=EVIL),
        event("pilot_ended", 2, pilot=EVIL[:190], reason=EVIL),
    ]
    summary, reading = summed(tmp_path / "e.jsonl", *lines)
    text = page(summary, reading, EVIL)
    found = parsed(text)
    tags = [tag for tag, _ in found.elements]
    assert tags.count("script") == 1
    assert "img" not in tags
    assert EVIL in found.text
    assert "default-src 'none'" in text


@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this system")
def test_a_browser_shows_it_and_runs_nothing_of_a_token(tmp_path: Path) -> None:
    """It is asked for what it made of the page."""
    lines = [event("pilot_started", 0, workers=1, hostname=EVIL)]
    lines += [ending("failed", each, 0.9, token=f"{each}{EVIL}", reason=EVIL) for each in range(5)]
    summary, reading = summed(tmp_path / "e.jsonl", *lines)
    text = page(summary, reading, "A title")
    (tmp_path / "page.html").write_text(text)
    # The same page, and the same script, beside a probe that moves the mouse over a bar of the timeline.
    probe = (
        "const bar = [...document.querySelectorAll('rect.failed')].at(-1);"
        "const box = bar.getBoundingClientRect();"
        "bar.dispatchEvent(new MouseEvent('mousemove', {bubbles: true, clientX: box.x, clientY: box.y}));"
        "document.body.setAttribute('data-hover', tip.style.display + ' ' + tip.textContent.length);"
        "document.body.setAttribute('data-wide', document.documentElement.scrollWidth <= innerWidth);"
    )
    probed = re.sub(r"script-src '[^']*'", "script-src 'unsafe-inline'", text)
    (tmp_path / "probed.html").write_text(probed.replace("</body>", f"<script>{probe}</script></body>"))
    # And what the policy is for: something of a token that were not escaped would not run.
    (tmp_path / "unescaped.html").write_text(text.replace("</body>", f"{EVIL}</body>"))
    (dom, said), (probed_dom, _), (unescaped_dom, refused) = (
        browse(tmp_path, name) for name in ("page.html", "probed.html", "unescaped.html")
    )
    assert "Content Security Policy" not in said  # its own style and script are let through
    assert "Content Security Policy" in refused
    assert "<title>A title</title>" in unescaped_dom
    for shown in (dom, probed_dom):
        assert "<title>A title</title>" in shown
        assert "<img" not in shown
    assert '<div id="tip"' in dom
    hover = re.search(r'data-hover="block (\d+)"', probed_dom)
    assert hover is not None
    assert int(hover[1]) > 10
    assert 'data-wide="true"' in probed_dom  # also on a narrow window: charts scroll in their own box


def browse(directory: Path, name: str) -> tuple[str, str]:
    """What a browser has made of a page, and what it said of it; with a profile of its own."""
    done = subprocess.run(
        [
            *(str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
            *("--no-first-run", "--enable-logging=stderr", "--disable-background-networking", "--window-size=500,900"),
            *(f"--user-data-dir={directory / 'profile'}", "--dump-dom", (directory / name).as_uri()),
        ],
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    )
    return done.stdout, done.stderr


def test_what_is_no_event_is_counted_and_left_out(tmp_path: Path) -> None:
    bad = ["{", "[]", "7", '{"event": 3}', event("done", 0, seconds=-1), event("done", 1e12), "\x00" * 100]
    bad += [event("started", 0, worker=10**9), event("done", 0, pilot="p" * 1000), "[" * 100_000]
    good = [ending("done", 0, 1), event("some_later_event", 3), ""]
    summary, reading = summed(tmp_path / "e.jsonl", *bad, *good, event("done", 0, schema=2))
    assert (reading.events, reading.unreadable, reading.newer) == (2, len(bad), 1)
    text = parsed(page(summary, reading, "t")).text
    assert f"{len(bad)} lines could not be read" in text
    assert "1 line of a later version" in text


def test_a_line_of_many_megabytes_is_one_bad_line(tmp_path: Path) -> None:
    _, reading = summed(tmp_path / "e.jsonl", "x" * 2_500_000, ending("done", 0, 1))
    assert (reading.events, reading.unreadable) == (1, 1)


def test_a_pilot_that_vanished_shows_what_it_ran(tmp_path: Path) -> None:
    lines = [event("started", 0, worker=0, token="gone"), ending("done", 0, 5, worker=1)]
    summary, reading = summed(tmp_path / "e.jsonl", *lines)
    (bar,) = summary.lanes["p1", 0]
    assert (bar.ending, bar.token, bar.seconds) == ("running", "gone", 5)
    assert "its end is not in the file" in page(summary, reading, "t")


def test_many_tokens_are_thinned_out_in_bounded_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(summing, "MAX_BARS", 50)
    monkeypatch.setattr(summing, "MAX_LANES", 3)
    monkeypatch.setattr(summing, "MAX_BINS", 40)
    monkeypatch.setattr(summing, "MAX_REASONS", 4)
    kinds = ("done", "failed")
    lines = [
        ending(
            kinds[each % 2], each * 0.5, 2, worker=each % 5, token=f"t{each}", reason=f"{'abcxyz'[each % 6]}zz {each}"
        )
        for each in range(400)
    ]
    random.Random(1).shuffle(lines)
    summary, reading = summed(tmp_path / "e.jsonl", *lines)
    assert summary.is_thinned
    assert not any(summary.lanes.values())
    assert len(summary.lanes) == 3
    series = {name for name, _ in summary.bins.counts}
    assert len(summary.bins.counts) <= 40 * len(series)
    assert sum(value for (name, _), value in summary.bins.counts.items() if name in kinds) == 400
    assert sum(value for (name, _), value in summary.bins.counts.items() if name == "busy") == pytest.approx(800)
    assert sum(count for count, _, _ in summary.reasons.values()) == 200
    assert len(summary.reasons) <= 5
    assert "Too many tokens to show each" in parsed(page(summary, reading, "t")).text
    assert len(summary.slowest) == summing.SLOWEST


def test_numbers_in_reasons_make_no_other_reason(tmp_path: Path) -> None:
    lines = [ending("failed", each, 1, reason=f"file {each}.fits at 0x{each:x} is missing") for each in range(9)]
    summary, _ = summed(tmp_path / "e.jsonl", *lines)
    assert [count for count, _, _ in summary.reasons.values()] == [9]


def test_percentiles_are_right_to_two_per_cent() -> None:
    dice = random.Random(3)
    exact = [dice.lognormvariate(0, 2) for _ in range(5000)]
    durations = Durations()
    for seconds in exact:
        durations.add(seconds)
    cuts = statistics.quantiles(exact, n=100)
    for per_cent in (5, 50, 90, 99):
        assert durations.percentile(per_cent / 100) == pytest.approx(cuts[per_cent - 1], rel=0.03)
    assert durations.percentile(1) == max(exact)


def test_bins_keep_their_sums_as_they_grow() -> None:
    bins = Bins()
    for place in range(1000):
        bins.reach(place * 10.0, place * 10.0 + 7)
        bins.spread("busy", place * 10.0, place * 10.0 + 7)
    assert sum(bins.counts.values()) == pytest.approx(7000)
    assert len(bins.counts) <= summing.MAX_BINS


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (2e-6, "2 µs"), (0.0123, "12.3 ms"), (3.21, "3.21 s"), (130, "2 min 10 s"), (7500, "2 h 5 min")],
)
def test_durations_as_text(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_numbers_and_clipped_texts() -> None:
    assert [number(value) for value in (0.123, 2, 12.34, 12345)] == ["0.12", "2.00", "12.3", "12,345"]
    assert clipped("a\x1bb\u202ec", 10) == "a\ufffdb\ufffdc"
    assert clipped("abcdef", 3) == "abc…"


@pytest.mark.parametrize("name", ["missing.jsonl", "empty", "empty.jsonl"])
def test_what_cannot_be_reported_is_said(apicas: Program, name: str) -> None:
    (apicas.directory / "empty").mkdir()
    apicas.write("empty.jsonl", "")
    result = apicas("report", name)
    assert result.code != 0
    assert name in result.error


def test_a_page_that_cannot_be_written_is_said(apicas: Program) -> None:
    apicas.write("e.jsonl", ending("done", 0, 1))
    result = apicas("report", "e.jsonl", "-o", "missing/page.html")
    assert result.code != 0
    assert "missing/page.html" in result.error


def test_logs_as_json(apicas: Program) -> None:
    apicas.write(
        "says.py",
        "import logging\n\n\ndef work(token):\n"
        '    logging.getLogger("mine").warning("a\\x1b%s", 1, extra={"field": 3})\n',
    )
    apicas("push", "-", stdin="one\n")
    result = apicas("run", "says.py:work", "--log-format", "json")
    assert result.code == 0, result.err
    (line,) = (json.loads(line) for line in result.err.splitlines() if line.startswith("{"))
    assert (line["level"], line["logger"], line["message"], line["field"]) == ("WARNING", "mine", "a\x1b1", 3)
    assert line["token"].startswith("token_")
    assert line["attempt"] == 1
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT.*\+00:00", line["time"])
    assert "\x1b" not in result.err


def test_the_log_format_from_the_environment(apicas: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APICAS_LOG_FORMAT", "xml")
    result = apicas("run", "--", "true")
    assert result.code != 0
    assert "text or json" in result.error


def test_metrics_say_where_they_are(apicas: Program) -> None:
    pytest.importorskip("prometheus_client")
    apicas("push", "-", stdin="one\n")
    result = apicas("run", "--metrics-port", "0", "--", "true")
    assert result.code == 0
    assert re.search(r"metrics are on http://127\.0\.0\.1:\d+/metrics", result.err)
