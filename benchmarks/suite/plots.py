"""Plots made from results: SVG, with matplotlib (`pip install apicas[bench]`)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Final

from apicas._bench.figures import duration
from apicas._bench.statistics import Summary, summarize
from benchmarks.contenders.listing import CONTENDERS
from benchmarks.suite.results import STORE_NAMES, Case, Result
from benchmarks.suite.tables import comparable, rate_summary, ratio_to, reference

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Told apart without colours too, and by those who see some of them alike (Okabe and Ito's).
_COLOURS: Final = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
_MARKERS: Final = "osD^vP"
_OURS: Final = _COLOURS[0]
_OTHERS: Final = "#b8c4ce"
_INK: Final = "#333333"
_LABEL_HEIGHT: Final = 0.075
"""Of the height of a panel."""
_FEWEST: Final = 2
"""Points that make a line, and bars that make a comparison."""


def draw_all(result: Result, directory: Path, *, kind: str = "svg") -> list[Path]:
    """Draw whatever a result has the figures for; answers with the files.

    Args:
        result: it.
        directory: for the files, which are named after the result.
        kind: svg or png.

    Raises:
        ModuleNotFoundError: there is no matplotlib.
    """
    directory.mkdir(parents=True, exist_ok=True)
    return [
        _write(figure, directory / f"{result.name}-{name}.{kind}", result)
        for name, figure in (*_comparisons(result), *_sweeps(result), *_latencies(result))
    ]


def _figure(width: float, height: float, title: str) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure  # noqa: PLC0415 - the other commands need none

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    _dress(axes, title)
    return figure, axes


def _dress(axes: Axes, title: str) -> None:
    axes.set_title(title, loc="left", fontsize=11, color=_INK, fontweight="bold")
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#999999")
    axes.tick_params(colors=_INK, labelsize=9)


def _write(figure: Figure, path: Path, result: Result) -> Path:
    from matplotlib import rc_context  # noqa: PLC0415 - the other commands need none

    machine = result.machine
    said = f"{machine.processor}, {machine.cores} cores; commit {result.commit[:8]}, {result.date[:10]}"
    figure.text(0.995, -0.005, said, ha="right", va="top", fontsize=7, color="#888888")
    # The same figures give the same file, but for the date that is in the result itself.
    with rc_context({"svg.hashsalt": result.name, "svg.fonttype": "none", "font.family": "sans-serif"}):
        metadata = {"Date": None} if path.suffix == ".svg" else None
        figure.savefig(path, dpi=120, bbox_inches="tight", pad_inches=0.12, metadata=metadata)
    return path


def _name(case: Case) -> str:
    what = CONTENDERS[case.contender].what if case.contender in CONTENDERS else case.contender
    store = STORE_NAMES[case.store]
    return what if store in what or case.store == "none" else f"{what} on {store}"


# Who is how fast. -----------------------------------------------------------------------------------------------------


def _comparisons(result: Result) -> Iterable[tuple[str, Figure]]:
    """One plot per setting in which at least two were measured."""
    for setting in dict.fromkeys(comparable(case) for case in result.cases()):
        cases = [case for case in result.cases() if comparable(case) == setting and rate_summary(result, case)]
        if len({case.contender for case in cases}) >= _FEWEST:
            slug = re.sub(r"[^a-z0-9]+", "-", setting)
            yield f"contenders-{slug.removesuffix('-workers')}", _comparison(result, setting, cases)


def _comparison(result: Result, setting: str, cases: Sequence[Case]) -> Figure:
    rates = {case: rate for case in cases if (rate := rate_summary(result, case)) is not None}
    ordered = sorted(rates, key=lambda case: rates[case].median)
    figure, axes = _figure(8, 0.9 + 0.42 * len(ordered), f"Tokens per second: {setting}")
    for place, case in enumerate(ordered):
        rate = rates[case]
        ours = case.contender.startswith("apicas")
        axes.barh(place, rate.median, color=_OURS if ours else _OTHERS, height=0.66)
        axes.hlines(place, rate.low, rate.high, color=_INK, linewidth=1.2)
        text = f" {rate.median:,.0f}/s{_beside(result, case, cases)}"
        axes.text(max(rate.high, rate.median), place, text, va="center", fontsize=9, color=_INK)
    axes.set_yticks(range(len(ordered)), [_name(case) for case in ordered])
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("tokens/s (bar: median of all repeats, line: slowest to fastest)", fontsize=9, color=_INK)
    axes.set_xlim(0, max(rate.high for rate in rates.values()) * 1.42)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    return figure


def _beside(result: Result, case: Case, cases: Sequence[Case]) -> str:
    """How many times as fast apicas is as another."""
    ours = reference(result, case, cases)
    ratio = ratio_to(result, ours, case) if ours is not None and ours != case else None
    return f"   (apicas is {ratio.median:.3g} x this)" if ratio else ""


# What happens with more. ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Factor:
    """Something that a sweep changes."""

    name: str
    label: str
    value: Callable[[Case], int | None]


_FACTORS: Final = (
    _Factor("workers", "workers of each pilot", lambda case: case.workers),
    _Factor("pilots", "pilots (processes)", lambda case: case.pilots),
    _Factor("batch", "tokens claimed ahead, or documents per request", lambda case: case.batch),
)


@dataclass(slots=True)
class _Line:
    """One contender over one factor, with all else the same."""

    case: Case
    points: list[tuple[int, Summary]]

    @property
    def end(self) -> float:
        return self.points[-1][1].median


def _sweeps(result: Result) -> Iterable[tuple[str, Figure]]:
    """One plot per factor that was swept, with a panel for each store and workload."""
    for factor in _FACTORS:
        panels: dict[str, list[_Line]] = {}
        for line in _lines(result, factor):
            panels.setdefault(f"{STORE_NAMES[line.case.store]}, {line.case.workload}", []).append(line)
        if panels:
            yield factor.name, _sweep(factor, panels)


def _lines(result: Result, factor: _Factor) -> list[_Line]:
    others = [other for other in _FACTORS if other is not factor]
    lines: dict[tuple[object, ...], _Line] = {}
    for case in result.cases():
        rate, at = rate_summary(result, case), factor.value(case)
        if rate is None or at is None:
            continue
        same = (case.contender, case.store, case.workload, case.wal, case.tokens, *(one.value(case) for one in others))
        lines.setdefault(same, _Line(case, [])).points.append((at, rate))
    for line in lines.values():
        line.points.sort(key=lambda point: point[0])
    return [line for line in lines.values() if len(line.points) >= _FEWEST]


def _sweep(factor: _Factor, panels: dict[str, list[_Line]]) -> Figure:
    from matplotlib.figure import Figure  # noqa: PLC0415 - the other commands need none

    figure = Figure(figsize=(8.5, 0.6 + 2.9 * len(panels)), layout="constrained")
    for axes, (title, lines) in zip(figure.subplots(len(panels), 1, squeeze=False)[:, 0], panels.items(), strict=True):
        _dress(axes, f"Tokens per second over {factor.name}: {title}")
        for number, line in enumerate(lines):
            _draw_line(axes, line, _COLOURS[number % len(_COLOURS)], _MARKERS[number % len(_MARKERS)])
        _scale(axes, lines)
        _label(axes, lines, factor)
        axes.set_ylabel("tokens/s", fontsize=9, color=_INK)
    axes.set_xlabel(f"{factor.label} (line: median of all repeats, band: slowest to fastest)", fontsize=9, color=_INK)
    return figure


def _draw_line(axes: Axes, line: _Line, colour: str, marker: str) -> None:
    places, rates = zip(*line.points, strict=True)
    axes.plot(places, [rate.median for rate in rates], color=colour, marker=marker, markersize=5, linewidth=1.8)
    lows, highs = [rate.low for rate in rates], [rate.high for rate in rates]
    axes.fill_between(places, lows, highs, color=colour, alpha=0.15, linewidth=0)


def _scale(axes: Axes, lines: Sequence[_Line]) -> None:
    from matplotlib.ticker import NullFormatter, NullLocator  # noqa: PLC0415 - the other commands need none

    axes.set_xscale("log", base=2)
    ticks = sorted({at for line in lines for at, _ in line.points})
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_ylim(0, 1.08 * max(rate.high for line in lines for _, rate in line.points))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.grid(axis="y", color="#eeeeee")


def _label(axes: Axes, lines: Sequence[_Line], factor: _Factor) -> None:
    """Write the name of each line beside its end, none over another."""
    top = axes.get_ylim()[1]
    ends = [line.end / top for line in lines]
    for number, (line, place) in enumerate(zip(lines, spread_out(ends, _LABEL_HEIGHT), strict=True)):
        axes.annotate(
            _line_name(line.case, lines, factor), (1.02, place), xycoords="axes fraction", va="center", fontsize=8,
            color=_COLOURS[number % len(_COLOURS)], annotation_clip=False,
        )  # fmt: skip


def spread_out(places: Sequence[float], least: float) -> list[float]:
    """Places of labels, none nearer to another than `least`, in the same order, and each near to where it was."""
    order = sorted(range(len(places)), key=lambda index: places[index])
    moved = list(places)
    for before, index in pairwise(order):
        moved[index] = max(moved[index], moved[before] + least)
    return moved


def _line_name(case: Case, lines: Sequence[_Line], factor: _Factor) -> str:
    """Who it is, and what else tells it from the others."""
    what = CONTENDERS[case.contender].what if case.contender in CONTENDERS else case.contender
    told = [
        f"{number} {one.name if number != 1 else one.name.removesuffix('s')}"
        for one in _FACTORS
        if one is not factor
        and len({one.value(other.case) for other in lines}) > 1
        and (number := one.value(case)) is not None
    ]
    wal = [] if case.wal == "NORMAL" else [f"synchronous {case.wal}"]
    return ", ".join([what.removesuffix(f" on {STORE_NAMES[case.store]}"), *told, *wal])


# How long a token takes. ----------------------------------------------------------------------------------------------


def _latencies(result: Result) -> Iterable[tuple[str, Figure]]:
    found = {case: spread for case in result.cases() if (spread := _percentiles(result, case))}
    if found:
        yield "latency", _latency_plot(found)


def _percentiles(result: Result, case: Case) -> list[float]:
    """The medians of p50, p95 and p99 over all repeats; none where nobody measured them."""
    spreads = [one.latency for one in result.samples(case) if one is not None and one.latency is not None]
    summaries = [summarize([getattr(one, name) for one in spreads]) for name in ("p50", "p95", "p99")]
    return [one.median for one in summaries if one is not None]


def _latency_plot(found: dict[Case, list[float]]) -> Figure:
    ordered = sorted(found, key=lambda case: -found[case][-1])
    figure, axes = _figure(8.5, 1.1 + 0.42 * len(ordered), "From the claim of a token to its confirmed outcome")
    for place, case in enumerate(ordered):
        p50, p95, p99 = found[case]
        colour = _OURS if case.contender.startswith("apicas") else "#7a8894"
        axes.hlines(place, p50, p99, color=colour, linewidth=2, alpha=0.5)
        for value, marker in ((p50, "o"), (p95, "|"), (p99, "D")):
            axes.plot(value, place, marker=marker, color=colour, markersize=9 if marker == "|" else 5)
        axes.annotate(
            f"{duration(p50)}, {duration(p95)}, {duration(p99)}", (p99, place), xytext=(8, 0),
            textcoords="offset points", va="center", fontsize=8, color=_INK,
        )  # fmt: skip
    axes.set_xscale("log")
    axes.set_yticks(range(len(ordered)), [f"{_name(case)}\n{case.setting}" for case in ordered], fontsize=7)
    axes.tick_params(axis="y", length=0)
    low, high = min(found[case][0] for case in ordered), max(found[case][-1] for case in ordered)
    axes.set_xlim(low / 1.5, high * (high / low) ** 0.5 * 2)
    axes.xaxis.set_major_formatter(lambda value, _: duration(value))
    axes.set_xlabel("p50 (dot), p95 (bar), p99 (diamond); medians of all repeats", fontsize=9, color=_INK)
    return figure
