"""Chaos on real parts: pilot processes, stores and servers are killed, stopped, cut off and starved; then we count.

`python -m benchmarks.chaos --help` says what can be chosen. What happened is counted outside of the pool, in
append-only files of the pilots' own (lines.py, ledger.py), and compared with what the pool stored (audit.py).
"""
