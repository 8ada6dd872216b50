"""PiCaS 1.1.2, as its users run it: its own actor and iterator, one token at a time, one process per pilot.

The pool has apicas's design documents, of which the views of Monitor are PiCaS's own, and its tokens.
"""

from __future__ import annotations

from benchmarks.contenders.couch_pool import couch_pool
from benchmarks.contenders.environments import picas_python
from benchmarks.contenders.processes import run_together, sample_of
from benchmarks.measuring import Sample, Trial


def measure(trial: Trial) -> Sample:
    """Measure PiCaS."""
    python = picas_python()
    with couch_pool(trial) as pool:
        settings = {**pool.settings(), "tokens": trial.tokens, "seconds": trial.seconds}
        module = "benchmarks.contenders.picas_pilot"
        started, reports = run_together(module, [settings] * trial.pilots, python=python)
    notes = ["one token at a time in each pilot: it has no workers"]
    gave_up = sum(report["gave_up"] for report in reports)
    if gave_up:
        notes.append(f"{gave_up} of {trial.pilots} pilots ended early, after ten lost races in a row")
    return sample_of(trial, started, reports, upload_seconds=pool.upload_seconds, notes=notes)
