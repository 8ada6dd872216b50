"""`python -m benchmarks`: how fast apicas is, alone and beside others; see benchmarks/README.md."""

from __future__ import annotations

import sys

from benchmarks.suite.commands import main

if __name__ == "__main__":
    sys.exit(main())
