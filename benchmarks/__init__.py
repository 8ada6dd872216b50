"""Benchmarks and proofs on real processes; each module is a command: `python -m benchmarks.exactly_once --help`."""
