"""The start of the one-file program: its `__main__.py`.

Any Python from 3.6 on must understand it, to say that it is too old. The packages are unpacked once for each version of
the file: Python loads no compiled part out of an archive, and worker processes find their modules on disk.
"""

import importlib
import os
import shutil
import stat
import sys
import sysconfig
import tempfile
import zipfile
from pathlib import Path
from typing import Iterator, List, Optional  # noqa: UP035 - of Pythons that are too old

OLDEST = (3, 11)


def fail(text: str) -> "SystemExit":
    """Say why it does not start; answers with what is to be raised."""
    sys.stderr.write(f"apicas: {text}\n")
    return SystemExit(2)


def places() -> Iterator[Path]:
    """Where the packages may be unpacked, the first choice first."""
    chosen = os.environ.get("APICAS_ZIPAPP_DIR")
    if chosen:
        yield Path(chosen).absolute()
        return
    for cache in (os.environ.get("XDG_CACHE_HOME", ""), str(Path(os.environ.get("HOME", "")) / ".cache")):
        if Path(cache).is_absolute():
            yield Path(cache) / "apicas"
    yield Path(tempfile.gettempdir()) / f"apicas-zipapp-{os.geteuid()}"


def check(place: Path) -> None:
    """Make a directory into which nobody else can put programs.

    Raises:
        OSError: that cannot be.
    """
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = place.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise OSError(f"{place}: others may write there")


def unpack(archive: Path, target: Path) -> None:
    """Unpack it all, at once for whoever looks.

    Raises:
        OSError: there is no room for it.
    """
    coming = Path(tempfile.mkdtemp(prefix="coming-", dir=str(target.parent)))
    try:
        with zipfile.ZipFile(str(archive)) as packed:
            packed.extractall(str(coming))
        coming.rename(target)
    except OSError:
        shutil.rmtree(str(coming), ignore_errors=True)
        if not target.is_dir():  # else another process was faster
            raise


def unpacked(archive: Path, name: str) -> Path:
    """The directory with the packages, unpacked by now.

    Raises:
        SystemExit: there is no place for it.
    """
    reasons = []
    for place in places():
        target = place / name
        try:
            check(place)
            if not target.is_dir():
                unpack(archive, target)
        except OSError as error:
            reasons.append(str(error))
        else:
            return target
    raise fail(f"it cannot be unpacked: {'; '.join(reasons)}: $APICAS_ZIPAPP_DIR names another directory")


def paths(directory: Path) -> List[str]:  # noqa: UP006
    """What is searched for modules: compiled packages if they run here, else what does their work."""
    compiled = directory / "compiled" / f"{sys.implementation.cache_tag}-{sysconfig.get_platform()}"
    if compiled.is_dir() and not os.environ.get("APICAS_ZIPAPP_PORTABLE"):
        own, known = [str(compiled), str(directory / "portable")], set(sys.modules)
        # With all that is ours: what it imports would else come from packages of this node, and stay.
        sys.path[:0] = own
        try:
            importlib.import_module("msgspec")
        except ImportError:  # an older C library, for instance
            del sys.path[: len(own)]
            for name in set(sys.modules) - known:
                del sys.modules[name]
        else:
            return own
    return [str(directory / "portable"), str(directory / "fallback")]


def main() -> Optional[int]:  # noqa: UP045
    """Unpack it where that was not done yet, and run the program."""
    if sys.version_info < OLDEST:
        wanted, found = ".".join(map(str, OLDEST)), ".".join(map(str, sys.version_info[:2]))
        raise fail(f"Python {wanted} or later is needed, and this is {found}")
    archive = Path(sys.argv[0]).absolute()
    with zipfile.ZipFile(str(archive)) as packed:
        name = packed.read("NAME").decode("ascii")
    here = paths(unpacked(archive, name))
    sys.path[:] = [*here, *(path for path in sys.path if Path(path).absolute() != archive and path not in here)]
    run = importlib.import_module("apicas.cli").main
    code: Optional[int] = run()  # noqa: UP045
    return code


if __name__ == "__main__":
    sys.exit(main())
