"""A pilot that renders fractals: `apicas run fractals:Fractals`, in this directory.

The pictures go to $FRACTALS_DIR (pictures/ if unset); a log and a thumbnail are attached to each token.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from render import Fractal, render

import apicas


class Fractals(apicas.RunActor):
    """One token, one picture."""

    def prepare_env(self) -> None:
        """Make the directory of the pictures, once per pilot."""
        self.directory = Path(os.environ.get("FRACTALS_DIR", "pictures"))
        self.directory.mkdir(parents=True, exist_ok=True)

    # A plain function runs in a thread, so the pictures of several tokens are drawn at once.
    def process_token(self, token: apicas.Token) -> dict[str, Any]:
        """Draw the token's fractal; what is returned becomes its output."""
        picture, thumbnail, log = render(Fractal.from_input(token["input"]))
        path = self.directory / f"{token.id}.png"
        path.write_bytes(picture)
        token.put_attachment("render.log", log)
        token.put_attachment("thumbnail.png", thumbnail)
        return {"file": str(path), "bytes": len(picture)}
