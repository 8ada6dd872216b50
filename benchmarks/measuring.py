"""What is measured, and what comes out: the two records between the suite and its contenders.

A contender is a module in `benchmarks/contenders/`. Each measurement runs in a process of its own, so that memory and
processor time are this measurement's alone: `python -m benchmarks.contenders NAME` reads a Trial as JSON from standard
input, and writes a Sample as JSON to standard output. How it says that it cannot: see benchmarks/suite/verdicts.py.

The records are in the package, since `apicas bench` measures with them too.
"""

from __future__ import annotations

from apicas._bench.records import Sample, Spread, Trial, Workload

__all__ = ["Sample", "Spread", "Trial", "Workload"]
