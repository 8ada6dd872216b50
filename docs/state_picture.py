# ruff: noqa: INP001 - a script
"""Draw the states of a token from the table in apicas.tokens, as a picture: `python docs/state_picture.py`.

It writes docs/states.svg; a test compares what is in it with the table.
"""

from __future__ import annotations

import sys
from html import escape
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).parent))
from state_diagram import arrows

from apicas.tokens import TokenState

TARGET: Final = Path(__file__).with_name("states.svg")
WIDTH, HEIGHT = 110, 44
PLACES: Final = {
    TokenState.TODO: (90, 150),
    TokenState.LOCKED: (470, 150),
    TokenState.DONE: (760, 60),
    TokenState.ERROR: (760, 260),
}
"""The middles of the boxes."""
BENDS: Final = {
    (TokenState.TODO, TokenState.LOCKED): (280, 110),
    (TokenState.LOCKED, TokenState.TODO): (280, 185),
    (TokenState.TODO, TokenState.ERROR): (330, 290),
    (TokenState.ERROR, TokenState.TODO): (340, 400),
    (TokenState.LOCKED, TokenState.DONE): (590, 60),
    (TokenState.DONE, TokenState.LOCKED): (625, 145),
    (TokenState.LOCKED, TokenState.ERROR): (625, 175),
    (TokenState.ERROR, TokenState.LOCKED): (560, 255),
    (TokenState.DONE, TokenState.TODO): (400, -35),
    (TokenState.DONE, TokenState.ERROR): (790, 160),
}
"""Where the middle of an arrow is drawn to: the control point of its curve."""
STYLE: Final = """\
text{font:13px system-ui,sans-serif;fill:#24292f}.label{font-size:12px;fill:#57606a}
.state{fill:#eaf3ff;stroke:#3b6ea8;stroke-width:1.5}.arrow{fill:none;stroke:#57606a;stroke-width:1.3}
.plate{fill:#fff;opacity:.85}svg{background:#fff}"""


def picture() -> str:
    """The picture as SVG."""
    lines = [
        (
            '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 860 345" role="img" '
            'aria-label="The states of a token, and what leads from one to another">'
        ),
        f"<style>{STYLE}</style>",
        (
            '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
            '<path d="M0 0 L8 4 L0 8 z" fill="#57606a"/></marker></defs>'
        ),
        '<rect width="860" height="345" fill="#fff"/>',
        '<path class="arrow" marker-end="url(#tip)" d="M90 70 L90 126"/>',
        '<text class="label" x="90" y="62" text-anchor="middle">upload</text>',
    ]
    labels = []
    for (start, goal), changes in arrows().items():
        curve, (x, y) = _curve(start, goal)
        lines.append(f'<path class="arrow" marker-end="url(#tip)" d="{curve}"/>')
        text = ", ".join(change.name.lower() for change in changes)
        width = 6.3 * len(text) + 8
        labels.append(f'<rect class="plate" x="{x - width / 2:.0f}" y="{y - 12:.0f}" width="{width:.0f}" height="17"/>')
        labels.append(f'<text class="label" x="{x:.0f}" y="{y + 1:.0f}" text-anchor="middle">{escape(text)}</text>')
    lines += labels
    for state, (x, y) in PLACES.items():
        lines.append(
            f'<rect class="state" x="{x - WIDTH // 2}" y="{y - HEIGHT // 2}" width="{WIDTH}" height="{HEIGHT}" rx="8"/>'
        )
        lines.append(f'<text x="{x}" y="{y + 5}" text-anchor="middle">{state}</text>')
    return "\n".join([*lines, "</svg>"]) + "\n"


def _curve(start: TokenState, goal: TokenState) -> tuple[str, tuple[float, float]]:
    """The curve of an arrow, and where its label is."""
    bend = BENDS[start, goal]
    first, last = _edge(PLACES[start], bend), _edge(PLACES[goal], bend)
    middle = tuple((one + 2 * two + three) / 4 for one, two, three in zip(first, bend, last, strict=True))
    path = f"M{first[0]:.0f} {first[1]:.0f} Q{bend[0]} {bend[1]} {last[0]:.0f} {last[1]:.0f}"
    return path, (middle[0], middle[1])


def _edge(middle: tuple[float, float], towards: tuple[float, float]) -> tuple[float, float]:
    """Where a line out of a box leaves it."""
    across, down = towards[0] - middle[0], towards[1] - middle[1]
    reach = min(
        WIDTH / 2 / abs(across) if across else 1e9,
        HEIGHT / 2 / abs(down) if down else 1e9,
    )
    return middle[0] + across * reach, middle[1] + down * reach


if __name__ == "__main__":
    TARGET.write_text(picture())
