"""Builds the one-file program out of what is installed here.

| in the archive | what it is |
|---|---|
| `__main__.py` | the start, see bootstrap.py |
| `NAME` | what the directory is called that it is unpacked into: version and digest |
| `portable/` | apicas and what it needs, without compiled parts: any Python 3.11 or later |
| `compiled/TAG/` | the packages that have compiled parts, for this Python and this kind of machine |
| `fallback/` | what stands in for a package that has no other part |
"""

from __future__ import annotations

import hashlib
import io
import re
import sys
import sysconfig
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path, PurePosixPath
from typing import Final

import apicas
from apicas.exceptions import ConfigError

SHEBANG: Final = b"#!/usr/bin/env python3\n"
OPTIONAL: Final = ("uvloop", "prometheus-client")
"""Distributions that go with it where they are installed."""
LEFT_OUT: Final = frozenset({"pydantic"})
"""What a dependency names, and no command of ours imports."""
ONLY_COMPILED: Final = frozenset({"msgspec", "uvloop"})
"""Distributions that are nothing without their compiled part."""
_COMPILED: Final = (".so", ".pyd", ".dylib")
_NEEDLESS: Final = frozenset({"__pycache__", "tests", "test"})
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_TIME: Final = (1980, 1, 1, 0, 0, 0)
"""Of all files: the same packages make the same archive."""
_HERE: Final = Path(__file__).parent


def build(target: Path, *, portable: bool = False) -> str:
    """Write the program.

    Args:
        target: the file; it is replaced whole.
        portable: leave the compiled parts out.

    Returns:
        What it runs on, for people.

    Raises:
        ConfigError: it cannot be written, or something is not installed that it needs.
    """
    tag = f"{sys.implementation.cache_tag}-{sysconfig.get_platform()}"
    files = dict(_files(None if portable else tag))
    digest = hashlib.sha256()
    for name, content in sorted(files.items()):
        digest.update(f"{name}\0{len(content)}\0".encode())
        digest.update(content)
    files["NAME"] = f"{apicas.__version__}-{digest.hexdigest()[:16]}".encode()
    _write(target, files)
    compiled = "" if portable else f"; with compiled parts for {tag}"
    return f"Python 3.11 or later{compiled}"


def _write(target: Path, files: dict[str, bytes]) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in sorted(files.items()):
            archive.writestr(zipfile.ZipInfo(name, _TIME), content, zipfile.ZIP_DEFLATED)
    coming = target.with_name(f".{target.name}.coming")
    try:
        coming.write_bytes(SHEBANG + buffer.getvalue())
        coming.chmod(0o755)
        coming.replace(target)
    except OSError as error:
        with suppress(OSError):
            coming.unlink(missing_ok=True)
        raise ConfigError(f"{target} cannot be written: {error}") from error


def _files(tag: str | None) -> Iterator[tuple[str, bytes]]:
    """The files of the archive; tag: of the compiled parts, None for none."""
    yield "__main__.py", (_HERE / "bootstrap.py").read_bytes()
    yield "fallback/msgspec.py", (_HERE / "msgspec.py").read_bytes()
    package = Path(apicas.__file__).parent
    for path in sorted(package.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            yield f"portable/apicas/{path.relative_to(package).as_posix()}", path.read_bytes()
    for found in _needed():
        yield from _files_of(found, tag)


def _files_of(found: Distribution, tag: str | None) -> Iterator[tuple[str, bytes]]:
    is_compiled = any(path.suffix in _COMPILED for path in found.files or ())
    for path in found.files or ():
        if not _belongs(path):
            continue
        content = Path(str(found.locate_file(path))).read_bytes()
        if found.name not in ONLY_COMPILED and path.suffix not in _COMPILED:
            yield f"portable/{path.as_posix()}", content
        if is_compiled and tag is not None:
            yield f"compiled/{tag}/{path.as_posix()}", content


def _belongs(path: PurePosixPath) -> bool:
    """Whether a file of a distribution is needed to run it; scripts and headers are elsewhere."""
    if path.is_absolute() or ".." in path.parts or not _NEEDLESS.isdisjoint(path.parts):
        return False
    if path.parts[0].endswith(".dist-info"):
        return path.name in {"METADATA", "entry_points.txt", "WHEEL"}
    return path.suffix not in {".pyi", ".c", ".pyx", ".pxd", ".h", ".pyc", ".pth"}


def _needed() -> Iterator[Distribution]:
    """What apicas needs, and what that needs.

    Raises:
        ConfigError: something is not installed.
    """
    seen: set[str] = {"apicas"}
    names = [*_required("apicas"), *OPTIONAL]
    while names:
        name = names.pop()
        key = name.lower().replace("_", "-")
        if key in seen or key in LEFT_OUT:
            continue
        seen.add(key)
        try:
            found = distribution(name)
        except PackageNotFoundError:
            if name in OPTIONAL:
                continue
            raise ConfigError(f"{name} is not installed here, and apicas needs it: install apicas with pip") from None
        yield found
        names += _required(name)


def _required(name: str) -> list[str]:
    """The distributions that one asks for, without those of its extras and of other systems."""
    try:
        lines = distribution(name).requires or []
    except PackageNotFoundError:
        raise ConfigError(f"{name} is not installed here: the program is made out of what pip has installed") from None
    return [
        found[0]
        for line in lines
        if not re.search(r"extra\s*==|sys_platform\s*==\s*.win|python_version\s*<|platform_system", line)
        and (found := _NAME.match(line)) is not None
    ]
