"""Plots made from results: SVG, with matplotlib (`pip install apicas[bench]`)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from apicas._bench.statistics import Summary, summarize
from benchmarks.contenders.listing import CONTENDERS
from benchmarks.suite.results import STORE_NAMES, Case, Result
from benchmarks.suite.tables import comparable, duration, rate_summary, ratio_to, reference

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Told apart without colours too, and by those who see some of them alike (Okabe and Ito's).
_COLOURS: Final = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
_MARKERS: Final = "osD^vP"
_OURS: Final = _COLOURS[0]
_OTHERS: Final = "#b8c4ce"
_INK: Final = "#333333"
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
    axes.set_title(title, loc="left", fontsize=11, color=_INK, fontweight="bold")
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#999999")
    axes.tick_params(colors=_INK, labelsize=9)
    return figure, axes


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
    for number, setting in enumerate(dict.fromkeys(comparable(case) for case in result.cases())):
        cases = [case for case in result.cases() if comparable(case) == setting and rate_summary(result, case)]
        if len({case.contender for case in cases}) >= _FEWEST:
            yield f"contenders{number or ''}", _comparison(result, setting, cases)


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
    axes.set_xlim(0, max(rate.high for rate in rates.values()) * 1.35)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    return figure


def _beside(result: Result, case: Case, cases: Sequence[Case]) -> str:
    """How many times as fast apicas is as another."""
    ours = reference(result, case, cases)
    ratio = ratio_to(result, ours, case) if ours is not None and ours != case else None
    return f"   (apicas: {ratio.median:.3g} x)" if ratio else ""


# What happens with more. ----------------------------------------------------------------------------------------------

_FACTORS: Final[dict[str, tuple[Callable[[Case], int | None], str]]] = {
    "workers": (lambda case: case.workers, "workers of each pilot"),
    "pilots": (lambda case: case.pilots, "pilots (processes)"),
    "batch": (lambda case: case.batch, "tokens claimed ahead, or documents per request"),
}


def _sweeps(result: Result) -> Iterable[tuple[str, Figure]]:
    """One plot per factor that was swept, with a line for each contender and setting of the other factors."""
    for factor, (value, label) in _FACTORS.items():
        lines = _lines(result, value)
        if lines:
            yield factor, _sweep(factor, label, lines)


def _lines(result: Result, value: Callable[[Case], int | None]) -> dict[str, list[tuple[int, Summary]]]:
    """By name: the points of each line, which all have the other factors in common."""
    factors = [other for other, _ in _FACTORS.values() if other is not value]
    lines: dict[tuple[object, ...], list[tuple[int, Summary]]] = {}
    names: dict[tuple[object, ...], str] = {}
    for case in result.cases():
        rate, at = rate_summary(result, case), value(case)
        if rate is None or at is None:
            continue
        key = (_name(case), case.workload, case.wal, case.tokens, *(other(case) for other in factors))
        names[key] = _line_name(case, value)
        lines.setdefault(key, []).append((at, rate))
    return {names[key]: sorted(points, key=lambda point: point[0]) for key, points in lines.items() if _swept(points)}


def _swept(points: Sequence[tuple[int, Summary]]) -> bool:
    return len({at for at, _ in points}) >= _FEWEST


def _line_name(case: Case, value: Callable[[Case], int | None]) -> str:
    others = {name: other(case) for name, (other, _) in _FACTORS.items() if other is not value}
    said = [f"{number} {name}" for name, number in others.items() if number is not None]
    wal = [] if case.wal == "NORMAL" else [f"synchronous {case.wal}"]
    return ", ".join([_name(case), case.workload, *said, *wal])


def _sweep(factor: str, label: str, lines: dict[str, list[tuple[int, Summary]]]) -> Figure:
    from matplotlib.ticker import NullFormatter, NullLocator  # noqa: PLC0415 - the other commands need none

    figure, axes = _figure(8.5, 4.2, f"Tokens per second over {factor}")
    for number, (name, points) in enumerate(lines.items()):
        colour, marker = _COLOURS[number % len(_COLOURS)], _MARKERS[number % len(_MARKERS)]
        places = [at for at, _ in points]
        medians = [rate.median for _, rate in points]
        axes.plot(places, medians, color=colour, marker=marker, markersize=5, linewidth=1.8)
        lows, highs = [rate.low for _, rate in points], [rate.high for _, rate in points]
        axes.fill_between(places, lows, highs, color=colour, alpha=0.15, linewidth=0)
        axes.annotate(
            f" {name}", (places[-1], medians[-1]), xytext=(6, 0), textcoords="offset points", va="center", fontsize=8,
            color=colour, annotation_clip=False,
        )  # fmt: skip
    axes.set_xscale("log", base=2)
    ticks = sorted({at for points in lines.values() for at, _ in points})
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.grid(axis="y", color="#eeeeee")
    axes.set_xlabel(label, fontsize=9, color=_INK)
    axes.set_ylabel("tokens/s (band: slowest to fastest)", fontsize=9, color=_INK)
    return figure


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
