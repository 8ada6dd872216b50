"""`apicas zipapp`: all of apicas in one file."""

from __future__ import annotations

from typing import Annotated

import typer

EPILOG = """\b
For worker nodes on which nothing can be installed. The file holds apicas and what it needs, as they are installed here;
it runs with any Python 3.11 or later, and needs nothing but the standard library. Compiled parts make it faster where
the node has the same Python and kind of machine as this one; elsewhere Python does their work.

\b
At its first start on a node it is unpacked into ~/.cache/apicas (or $XDG_CACHE_HOME, or the directory for temporary
files, or $APICAS_ZIPAPP_DIR), 10 MB. Your own modules are found in the working directory, as ever.

\b
Examples:
  apicas zipapp
  python3.11 apicas.pyz run --pool https://me@couch.example.org/survey -- ./simulate {input}
  apicas zipapp --portable -o job/apicas.pyz
"""


def zipapp(
    output: Annotated[str, typer.Option("--output", "-o", metavar="FILE", help="The file.")] = "apicas.pyz",
    *,
    portable: Annotated[bool, typer.Option("--portable", help="Leave the compiled parts out.")] = False,
) -> None:
    """Write all of apicas into one file, for nodes where nothing can be installed."""
    from pathlib import Path

    from apicas._zipapp.build import build
    from apicas.cli.terminal import say

    target = Path(output)
    runs_on = build(target, portable=portable)
    say(f"{target}: {target.stat().st_size / 1e6:.1f} MB, for {runs_on}")
