"""`python -m apicas` is `apicas`."""

from __future__ import annotations

import sys

from apicas.cli import main

if __name__ == "__main__":
    sys.exit(main())
