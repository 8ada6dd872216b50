"""Run an actor that was written for PiCaS (the package `picas`) on an apicas pilot.

    import apicas.picas

    actor = Lines(client, modifier)                               # as it always was
    apicas.picas.run(actor, max_token_time=1800, workers=8)       # was: actor.run(max_token_time=1800)

The actor stays as it is, and so do its class, its client and its modifier. What changes is around it: see
docs/migrating-from-picas.md. Nothing here imports `picas`; the actor brings it along.
"""

from __future__ import annotations

from apicas.picas.adapter import PicasActor
from apicas.picas.running import run, run_async

__all__ = ["PicasActor", "run", "run_async"]
