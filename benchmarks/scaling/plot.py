"""The plot of docs/scaling.md: what pilots come to, and what they cost, by their number."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from benchmarks.scaling.cases import Measured
from benchmarks.scaling.report import length

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Told apart without colours too, and by those who see some of them alike (Okabe and Ito's).
_COLOURS: Final = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00")
_INK: Final = "#333333"
_LEAST_SHARE: Final = 1.0
"""Percent, from which a line of the panel of shares has a name: the others lie at the bottom together."""
_APART: Final = 0.065
"""Of the height of a panel: the least distance of two labels."""

_PANELS: Final[Sequence[tuple[str, str, Callable[[Measured], float], bool]]] = (
    ("Tokens done", "tokens/s", lambda one: one.tokens_per_second, True),
    ("Claims that another pilot won", "% of the claims written", lambda one: 100 * one.lost_share, False),
    ("Requests", "requests/s", lambda one: one.requests_per_second, True),
    ("Cores of the server in use", "cores of 16", lambda one: one.cores_used, True),
)


def draw(entries: Sequence[Measured], path: Path) -> None:
    """Draw the steady cases.

    Args:
        entries: of all numbers of pilots, lengths and views.
        path: of the file, SVG or PNG.

    Raises:
        ModuleNotFoundError: there is no matplotlib.
    """
    from matplotlib import rc_context  # noqa: PLC0415 - need not be there
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=(10.5, 7.6))
    figure.set_layout_engine("constrained", w_pad=0.15, h_pad=0.12)
    for axes, (title, unit, value, logarithmic) in zip(figure.subplots(2, 2).flat, _PANELS, strict=True):
        _draw_panel(axes, entries, value, logarithmic=logarithmic)
        axes.set_title(title, loc="left", fontsize=11, fontweight="bold", color=_INK)
        axes.set_ylabel(unit, fontsize=9, color=_INK)
        axes.set_xlabel("pilots, each with 64 workers", fontsize=9, color=_INK)
    said = (
        "solid: claims that walk from a random rank of Monitor/todo; dashed: claims at its head, as before; no sweeps"
    )
    figure.text(0.5, -0.005, said, ha="center", va="top", fontsize=9, color=_INK)
    with rc_context({"svg.hashsalt": "scaling", "svg.fonttype": "none", "font.family": "sans-serif"}):
        metadata = {"Date": None} if path.suffix == ".svg" else None
        figure.savefig(path, dpi=110, bbox_inches="tight", pad_inches=0.12, metadata=metadata)


def _draw_panel(
    axes: Axes, entries: Sequence[Measured], value: Callable[[Measured], float], *, logarithmic: bool
) -> None:
    labels: list[tuple[float, str, str]] = []
    lengths = sorted({one.token_seconds for one in entries})
    for colour, seconds in zip(_COLOURS, lengths, strict=False):
        for view, style in (("head", "--"), ("walk", "-")):
            line = sorted(
                (one.pilots, value(one)) for one in entries if (one.token_seconds, one.view) == (seconds, view)
            )
            axes.plot(*zip(*line, strict=True), style, color=colour, marker="o", markersize=3.5, linewidth=1.6)
            if logarithmic or line[-1][1] > _LEAST_SHARE:
                labels.append((line[-1][1], f"{length(seconds)}{', head' if view == 'head' else ''}", colour))
    axes.set_xscale("log")
    if logarithmic:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(lambda number, _: f"{number:,.10g}")
    else:
        axes.set_ylim(-2, 102)
    axes.set_xticks(sorted({one.pilots for one in entries}))
    axes.xaxis.set_major_formatter(lambda number, _: f"{number:,.0f}")
    axes.minorticks_off()
    axes.grid(axis="y", color="#e6e6e6", linewidth=0.7)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#999999")
    axes.tick_params(colors=_INK, labelsize=9)
    _label(axes, labels)


def _label(axes: Axes, labels: Sequence[tuple[float, str, str]]) -> None:
    """Name lines at their ends, the names kept apart; lines that end together share one place."""
    to_height = axes.transData + axes.transAxes.inverted()
    axes.set_xlim(axes.get_xlim())
    ends = sorted((float(to_height.transform((1.0, value))[1]), text, colour) for value, text, colour in labels)
    merged: list[tuple[float, str, str]] = []
    for height, text, colour in ends:
        before = merged[-1] if merged else None
        if before is not None and before[2] == colour and height - before[0] < _APART / 2:
            merged[-1] = (before[0], min(before[1], text, key=len), colour)
        else:
            merged.append((height, text, colour))
    places = [height for height, _, _ in merged]
    for _ in range(200):  # push neighbours apart by halves, so that a crowd stays where its lines end
        for place in range(1, len(places)):
            missing = _APART - (places[place] - places[place - 1])
            if missing > 0:
                places[place - 1] -= missing / 2
                places[place] += missing / 2
        places = [min(max(height, 0.0), 1.0) for height in places]
    for height, (_, text, colour) in zip(places, merged, strict=True):
        axes.text(1.02, height, text, transform=axes.transAxes, color=colour, fontsize=9, va="center")
