"""Render one fractal as a PNG: the work itself, which knows nothing of tokens.

As a command:  python render.py '{"kind": "julia", "c": [-0.8, 0.156]}' picture.png
"""

from __future__ import annotations

import io
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


@dataclass(frozen=True, slots=True, kw_only=True)
class Fractal:
    """What to draw.

    Args:
        kind: `mandelbrot` or `julia`.
        size: width and height in pixels.
        centre: the middle of the picture in the complex plane.
        depth: how deep to zoom: the picture is 3 / 2**depth wide.
        iterations: after how many steps a point counts as inside.
        c: the constant of a Julia set.
        hue: turns the palette, from 0 to 1.
    """

    kind: str = "mandelbrot"
    size: tuple[int, int] = (480, 360)
    centre: tuple[float, float] = (-0.5, 0.0)
    depth: float = 0.0
    iterations: int = 200
    c: tuple[float, float] = (-0.8, 0.156)
    hue: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in {"mandelbrot", "julia"}:
            raise ValueError(f"{self.kind!r} is no fractal: mandelbrot or julia")
        if not 1 <= self.iterations <= 100_000 or not all(1 <= side <= 20_000 for side in self.size):
            raise ValueError("size and iterations must be sensible")

    @classmethod
    def from_input(cls, content: dict[str, Any]) -> Fractal:
        """Read the parameters of a token; lists are JSON's tuples."""
        fields: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in content.items()}
        return cls(**fields)


def escape_times(fractal: Fractal) -> np.ndarray[Any, np.dtype[np.float64]]:
    """How many steps each pixel's point takes to escape, smoothed; 0 for points inside."""
    width, height = fractal.size
    reach = 1.5 / 2**fractal.depth
    x = np.linspace(fractal.centre[0] - reach, fractal.centre[0] + reach, width)
    y = np.linspace(fractal.centre[1] + reach * height / width, fractal.centre[1] - reach * height / width, height)
    plane = (x[None, :] + 1j * y[:, None]).ravel()
    z = plane.copy() if fractal.kind == "julia" else np.zeros_like(plane)
    c = np.full_like(plane, complex(*fractal.c)) if fractal.kind == "julia" else plane
    times = np.zeros(plane.shape)
    alive = np.arange(plane.size)
    for step in range(1, fractal.iterations + 1):
        z[alive] = z[alive] ** 2 + c[alive]
        size = np.abs(z[alive])
        escaped = size > 16
        times[alive[escaped]] = step + 1 - np.log2(np.log(size[escaped]) / np.log(2))
        alive = alive[~escaped]
        if not alive.size:
            break
    return times.reshape(height, width)


def colours(times: np.ndarray[Any, np.dtype[np.float64]], hue: float) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """A smooth palette of three waves; what is inside stays black."""
    phase = np.sqrt(np.maximum(times, 0))[..., None] * 0.55 + hue * 2 * np.pi + np.array([0.0, 2.1, 4.2])
    shades: np.ndarray[Any, np.dtype[np.uint8]] = (127.5 * (1 + np.cos(phase + 3.0))).astype(np.uint8)
    shades[times <= 0] = 0
    return shades


def render(fractal: Fractal) -> tuple[bytes, bytes, str]:
    """Draw a fractal.

    Returns:
        The picture as PNG, a thumbnail as PNG, and a log of what was done.
    """
    start = time.perf_counter()
    times = escape_times(fractal)
    image = Image.fromarray(colours(times, fractal.hue))
    inside = float(np.mean(times <= 0))
    log = f"{fractal}\n{inside:.1%} of the points are inside; {time.perf_counter() - start:.2f} s\n"
    thumbnail = image.copy()
    thumbnail.thumbnail((96, 96))
    return _png(image), _png(thumbnail), log


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def main() -> None:
    """Render the fractal of the first argument into the file of the second."""
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    picture, _, log = render(Fractal.from_input(json.loads(sys.argv[1])))
    target = Path(sys.argv[2])
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(picture)
    print(log, end="")


if __name__ == "__main__":
    main()
