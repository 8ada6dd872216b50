"""The directory that a pilot has for the time of its life: the files of running attempts are there.

It is in the directory for temporary files, below one that only this user can enter, and named by the process and the
pilot, so that what a pilot leaves that was killed is known to be nobody's. The next pilot of the user on that node
takes it away: at once, or a day later where there are logs in it.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from apicas._files import private_directory
from apicas._runtime.environment import boot_id, process_is_gone
from apicas.exceptions import ConfigError
from apicas.modifiers import Owner

LOGS: Final = "logs"
_NAME: Final = re.compile(r"[0-9a-f]{1,64}\.[0-9]{1,20}\.[0-9]{0,20}\.[0-9a-f]{1,64}", re.ASCII)
KEEP_LOGS: Final = 86_400.0
"""Seconds for which the logs of a pilot that was killed are kept: somebody may want to know what it did."""
KEEP_UNKNOWN: Final = 7 * 86_400.0
"""Seconds after which a directory is nobody's whose pilot nobody can look for: of another container, or before a boot.
A pilot that lives touches its own."""


def make_place(owner: Owner) -> Path:
    """Make the directory of a pilot.

    Raises:
        OSError: there is no room for one.
    """
    try:
        place = private_directory(everybodys_place()) / f"{owner.process}.{owner.pilot}"
        place.mkdir(mode=0o700, exist_ok=True)
    except ConfigError:  # somebody else has that name
        return Path(tempfile.mkdtemp(prefix="apicas-"))
    return place


def place_of(claim: Mapping[str, Any]) -> Path | None:
    """The directory of the pilot that holds a token, if that is on this node: by the sub-object of the token."""
    name = f"{claim.get('process')}.{claim.get('pilot')}"
    return everybodys_place() / name if _NAME.fullmatch(name) else None


def everybodys_place() -> Path:
    """Where the directories of all pilots of this user are."""
    return Path(tempfile.gettempdir()) / f"apicas-{os.geteuid()}"


def sweep_places() -> None:
    """Remove the directories of pilots that are gone."""
    now = time.time()
    for place in _listed(everybodys_place()):
        with suppress(OSError):  # another pilot was faster
            if _is_nobodys(place, now):
                shutil.rmtree(place, ignore_errors=True)


def _is_nobodys(place: Path, now: float) -> bool:
    age = now - place.stat().st_mtime
    process = place.name.rpartition(".")[0]
    if not process_is_gone({"apicas": {"process": process}}, boot_id()):
        return age > KEEP_UNKNOWN and not process.startswith(f"{boot_id()}.")
    return age > KEEP_LOGS or not any(_listed(place / LOGS))


def _listed(directory: Path) -> Iterable[Path]:
    try:
        return list(directory.iterdir())
    except OSError:
        return []
