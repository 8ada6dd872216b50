"""Print tokens as JSON lines: a dive into the Mandelbrot set, and a walk around its rim through the Julia sets.

python tokens.py [HOW_MANY] | apicas push
"""

from __future__ import annotations

import cmath
import json
import math
import sys
from collections.abc import Iterator
from typing import Any


def tokens(how_many: int) -> Iterator[dict[str, Any]]:
    """Half of the tokens zoom in on one place, the other half follow the main cardioid's edge."""
    zooms = how_many // 2
    for number in range(zooms):
        depth = 12 * number / max(1, zooms - 1)
        content = {
            "kind": "mandelbrot",
            "centre": [-0.743643887037151, 0.131825904205330],
            "depth": round(depth, 3),
            "iterations": int(150 + 60 * depth),
            "hue": round(number / max(1, zooms), 3),
        }
        yield {"_id": f"mandelbrot-{number:03}", "input": content}
    for number in range(how_many - zooms):
        turn = cmath.exp(2j * math.pi * number / max(1, how_many - zooms))
        c = 1.02 * (turn / 2 - turn * turn / 4)
        content = {"kind": "julia", "centre": [0.0, 0.0], "c": [round(c.real, 6), round(c.imag, 6)], "iterations": 250}
        yield {"_id": f"julia-{number:03}", "input": content}


def main() -> None:
    """Print as many tokens as asked for; 60 where nothing is said."""
    for token in tokens(int(sys.argv[1]) if len(sys.argv) > 1 else 60):
        print(json.dumps(token))


if __name__ == "__main__":
    main()
