"""The suite around the contenders: plans, runs, results, tables and plots; `python -m benchmarks --help`."""
