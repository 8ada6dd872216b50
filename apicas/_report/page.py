"""The page: one HTML file that loads nothing. All that comes from events is escaped, and only one script may run."""

from __future__ import annotations

import base64
import hashlib
from datetime import UTC, datetime
from html import escape
from typing import Final

from apicas._report import charts
from apicas._report.reading import Reading
from apicas._report.summing import BAD, ENDINGS, Summary
from apicas._report.texts import clipped, duration, number, share

MAX_ROWS: Final = 50
"""Rows of a table."""

STYLE: Final = """
:root { color-scheme: light dark; --page: #f6f7f9; --card: #fff; --ink: #1d2430; --soft: #667085; --line: #e3e7ee;
  --done: #2f9e6e; --failed: #d64545; --scrubbed: #e29a2d; --crashed: #9b4dca; --released: #8a94a6; --lost: #5b6473;
  --running: #4a90d9; --busy: #3b7dd8; }
@media (prefers-color-scheme: dark) { :root { --page: #12161c; --card: #1b212a; --ink: #e6e9ef; --soft: #98a2b3;
  --line: #2d3540; --done: #3fb984; --failed: #f06a6a; --scrubbed: #f0b04f; --crashed: #b97ae0; --lost: #717c8e;
  --busy: #5a9bf0; } }
* { box-sizing: border-box; }
body { margin: 0; padding: 1.5rem 1rem 3rem; background: var(--page); color: var(--ink);
  font: 15px/1.45 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
main { max-width: 1080px; margin: 0 auto; }
h1 { font-size: 1.5rem; margin: 0 0 .2rem; }
h2 { font-size: 1.02rem; margin: 0 0 .15rem; }
p { margin: 0 0 .7rem; } .soft { color: var(--soft); font-size: .88rem; overflow-wrap: anywhere; }
section { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 1rem 1.1rem;
  margin-top: 1rem; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(128px, 1fr)); gap: .7rem; margin-top: 1rem; }
.tile { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: .65rem .8rem; }
.tile b { display: block; font-size: 1.3rem; font-weight: 650; } .tile span { color: var(--soft); font-size: .82rem; }
.scroll { overflow-x: auto; } svg { display: block; width: 100%; height: auto; min-width: 560px; }
svg text { fill: var(--soft); font-size: 11px; font-family: inherit; } .grid { stroke: var(--line); }
.limit { stroke: var(--soft); stroke-dasharray: 5 4; } .track { fill: var(--line); opacity: .45; }
.done { fill: var(--done); } .failed { fill: var(--failed); } .scrubbed { fill: var(--scrubbed); }
.crashed { fill: var(--crashed); } .released { fill: var(--released); } .lost { fill: var(--lost); }
.running { fill: var(--running); } .busy { fill: var(--busy); } [data-tip]:hover { opacity: .75; }
.mark { stroke: var(--ink); stroke-dasharray: 2 3; }
.key { display: flex; flex-wrap: wrap; gap: .2rem 1rem; font-size: .84rem; color: var(--soft); margin: .4rem 0 0; }
.key svg { min-width: 0; width: 10px; height: 10px; display: inline-block; margin-right: .35rem; }
table { border-collapse: collapse; width: 100%; font-size: .88rem; }
th { text-align: left; color: var(--soft); font-weight: 500; white-space: nowrap; }
th, td { padding: .35rem .8rem .35rem 0; border-top: 1px solid var(--line); vertical-align: top; }
thead th { border-top: 0; } td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
th.n { width: 1%; }
td.id { font-family: ui-monospace, "DejaVu Sans Mono", monospace; font-size: .82rem; overflow-wrap: anywhere; }
#tip { position: fixed; display: none; pointer-events: none; background: var(--ink); color: var(--card);
  padding: .3rem .55rem; border-radius: 6px; font-size: .8rem; max-width: 320px; overflow-wrap: anywhere;
  white-space: pre-line; }
"""
SCRIPT: Final = """
const tip = document.getElementById("tip");
document.addEventListener("mousemove", event => {
  const about = event.target.closest ? event.target.closest("[data-tip]") : null;
  tip.style.display = about ? "block" : "none";
  if (!about) return;
  tip.textContent = about.getAttribute("data-tip");
  tip.style.left = Math.max(4, Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8)) + "px";
  tip.style.top = Math.max(4, Math.min(event.clientY + 16, innerHeight - tip.offsetHeight - 8)) + "px";
});
"""


def page(summary: Summary, reading: Reading, title: str) -> str:
    """The whole page."""
    policy = f"default-src 'none'; style-src '{_digest(STYLE)}'; script-src '{_digest(SCRIPT)}'"
    parts = [
        f"<h1>{escape(clipped(title, 200))}</h1>",
        f'<p class="soft">{escape(_about(summary, reading))}</p>',
        _tiles(summary),
        _section("Throughput", "Tokens that ended, per second.", charts.throughput(summary), charts.key(summary)),
        _section("Tokens at work", _about_work(summary), charts.at_work(summary)),
        _section("Workers", _about_lanes(summary), charts.timeline(summary)),
        _section("Durations", _about_durations(summary), charts.durations(summary)),
        _reasons(summary),
        _slowest(summary),
        _pilots(summary),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(clipped(title, 200))}</title><style>{STYLE}</style></head>\n<body><main>\n"
        + "\n".join(part for part in parts if part)
        + f'\n</main><div id="tip"></div><script>{SCRIPT}</script></body></html>\n'
    )


def _digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _section(title: str, about: str, chart: str, after: str = "") -> str:
    if not chart:
        return ""
    said = f'<p class="soft">{escape(about)}</p>' if about else ""
    return f'<section><h2>{escape(title)}</h2>{said}<div class="scroll">{chart}</div>{after}</section>'


def _about(summary: Summary, reading: Reading) -> str:
    first, last = summary.bins.first, summary.bins.last
    begin = datetime.fromtimestamp(first, UTC)
    texts = [
        f"{begin:%Y-%m-%d %H:%M:%S} UTC, {duration(last - first)}",
        _many(len(summary.pilots), "pilot"),
        f"{_many(reading.events, 'event')} in {_many(len(reading.paths), 'file')}",
    ]
    if reading.unreadable:
        texts.append(f"{_many(reading.unreadable, 'line')} could not be read")
    if reading.newer:
        texts.append(f"{_many(reading.newer, 'line')} of a later version left out")
    if summary.dropped:
        texts.append(f"{_many(summary.dropped, 'event')} had been dropped: numbers are too low")
    return " · ".join(texts)


def _many(count: int, word: str) -> str:
    return f"{count:,} {word}{'' if count == 1 else 's'}"


def _tiles(summary: Summary) -> str:
    seconds = summary.bins.last - summary.bins.first
    ended, times = summary.ended, summary.durations
    rate = ended["done"] / seconds if seconds > 0 else 0.0
    tiles = [(f"{ended['done']:,}", "done"), (f"{ended['failed']:,}", "failed")]
    tiles += [(f"{ended[name]:,}", _LONG[name]) for name in ENDINGS[2:] if ended[name]]
    if summary.reclaimed:
        tiles.append((f"{summary.reclaimed:,}", "reclaimed from others"))
    tiles.append((f"{number(rate)}/s", "done per second"))
    if times.count:
        tiles += [
            (duration(times.percentile(0.5)), "median duration"),
            (duration(times.percentile(0.95)), "95 % below"),
        ]
    used = _utilisation(summary)
    if used is not None:
        tiles.append((share(used), "utilisation"))
    cells = "".join(
        f'<div class="tile"><b>{escape(value)}</b><span>{escape(name)}</span></div>' for value, name in tiles
    )
    return f'<div class="tiles">{cells}</div>'


_LONG: Final = {
    "scrubbed": "failed, tried again",
    "crashed": "process died",
    "released": "handed back",
    "lost": "lost to others",
}


def _utilisation(summary: Summary) -> float | None:
    """Of all pilots that said how many workers they have."""
    known = [pilot for pilot in summary.pilots.values() if pilot.workers]
    room = sum(pilot.workers * (pilot.last - pilot.first) for pilot in known)
    return min(1.0, sum(pilot.busy for pilot in known) / room) if room > 0 else None


def _about_work(summary: Summary) -> str:
    workers = sum(pilot.workers for pilot in summary.pilots.values())
    return f"The dashed line is all {workers:,} workers of all pilots." if workers else ""


def _about_lanes(summary: Summary) -> str:
    shown = f"{_many(len(summary.lanes), 'slot')}, a row each."
    if summary.is_thinned:
        return f"{shown} Too many tokens to show each: the darker, the busier; red is the share of failures."
    return f"{shown} A bar is the work on one token, in the colours from above; blue has not ended."


def _about_durations(summary: Summary) -> str:
    times = summary.durations
    if not times.count:
        return ""
    texts = [f"{label} {duration(times.percentile(of))}" for label, of in _PERCENTILES]
    mean = duration(times.total / times.count)
    return f"Of work that came to its end. {', '.join(texts)}, longest {duration(times.longest)}, mean {mean}."


_PERCENTILES: Final = (("5 % below", 0.05), ("median", 0.5), ("90 % below", 0.9), ("99 % below", 0.99))


def _table(title: str, about: str, heads: list[tuple[str, str]], rows: list[list[str]]) -> str:
    """A table; `heads` are texts and classes of columns. Cells are escaped here."""
    if not rows:
        return ""
    top = "".join(f'<th class="{kind}">{escape(text)}</th>' for text, kind in heads)
    body = "".join(
        "<tr>"
        + "".join(f'<td class="{kind}">{escape(cell)}</td>' for cell, (_, kind) in zip(row, heads, strict=True))
        + "</tr>"
        for row in rows
    )
    return _section(title, about, f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>")


def _reasons(summary: Summary) -> str:
    most = sorted(summary.reasons.values(), key=lambda each: -each[0])
    rows = [[f"{count:,}", clipped(reason, 300), clipped(token, 120)] for count, reason, token in most[:MAX_ROWS]]
    total = sum(summary.ended[ending] for ending in BAD)
    why = _many(len(most), "reason")
    about = f"{_many(total, 'attempt')} did not succeed, for {why}; those that differ in numbers only count as one."
    return _table("Failures by reason", about, [("Times", "n"), ("Reason", ""), ("Such a token", "id")], rows)


def _slowest(summary: Summary) -> str:
    rows = [
        [duration(seconds), clipped(token, 120), ending, clipped(pilot, 40)]
        for seconds, token, pilot, ending in sorted(summary.slowest, reverse=True)
    ]
    heads = [("Seconds", "n"), ("Token", "id"), ("Ended", ""), ("Pilot", "id")]
    return _table("Slowest tokens", "", heads, rows)


def _pilots(summary: Summary) -> str:
    start = summary.bins.first
    found = sorted(summary.pilots.items(), key=lambda each: each[1].first)
    rows = []
    for name, pilot in found[:MAX_ROWS]:
        used = pilot.utilisation
        rows.append(
            [
                clipped(name, 40),
                clipped(pilot.hostname, 80),
                f"{pilot.workers:,}" if pilot.workers else "",
                f"+{duration(pilot.first - start)}",
                duration(pilot.last - pilot.first),
                f"{pilot.ended['done']:,}",
                f"{sum(pilot.ended[ending] for ending in BAD):,}",
                "" if used is None else share(used),
                clipped(pilot.reason, 120) or "its end is not in the file",
            ]
        )
    heads = [("Pilot", "id"), ("Host", ""), ("Workers", "n"), ("From", "n"), ("For", "n"), ("Done", "n")]
    heads += [("Not", "n"), ("Used", "n"), ("Ended", "")]
    about = f"The first {MAX_ROWS} of {len(found):,}." if len(found) > MAX_ROWS else ""
    return _table("Pilots", about, heads, rows)
