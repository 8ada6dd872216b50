"""The limits that control groups set, of version 2 and 1: those of this process's own group, and of all above it.

A limit binds also the groups below it, so the least on the way up counts. Where the group itself is not to be seen, as
in many containers, what is mounted is the group that the container may see.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final, TypeVar

from apicas._documents import shown
from apicas._node.surroundings import Found, Surroundings

T = TypeVar("T")

NO_LIMIT_V1: Final = 1 << 60
"""Bytes. Version 1 has no word for "no limit", but writes the largest number of whole pages there is."""
MAX_DEPTH: Final = 64
"""Groups on the way up."""
_ESCAPE = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class _Mount:
    """Where a hierarchy can be seen: its controllers (none for version 2), the group that is shown, and the place."""

    controllers: frozenset[str]
    group: PurePosixPath
    place: PurePosixPath


def cpu_limits(surroundings: Surroundings) -> list[Found[float]]:
    """The CPUs that each quota on the way allows."""
    paths = [f"{directory}/cpu.max" for directory in _way_up(surroundings, "")]
    found = [(path, surroundings.text(path)) for path in paths]
    for directory in _way_up(surroundings, "cpu"):
        quota = surroundings.text(f"{directory}/cpu.cfs_quota_us")
        period = surroundings.text(f"{directory}/cpu.cfs_period_us")
        found.append((f"{directory}/cpu.cfs_quota_us", f"{quota} {period}" if quota and period else None))
    return [limit for path, text in found if (limit := _limit(surroundings, path, text, _cpus)) is not None]


def memory_limits(surroundings: Surroundings) -> list[Found[int]]:
    """The bytes that each limit on the way allows. Above `memory.high` a group is slowed down, which is no better."""
    paths = [f"{place}/{name}" for place in _way_up(surroundings, "") for name in ("memory.max", "memory.high")]
    paths += [f"{place}/memory.limit_in_bytes" for place in _way_up(surroundings, "memory")]
    read = [(path, surroundings.text(path)) for path in paths]
    return [limit for path, text in read if (limit := _limit(surroundings, path, text, _bytes)) is not None]


def _limit(
    surroundings: Surroundings, path: str, text: str | None, parse: Callable[[str], T | None]
) -> Found[T] | None:
    value = surroundings.parsed(path, text, parse) if text else None
    return None if value is None else Found(value, f"control group, {path}")


def _cpus(text: str) -> float | None:
    quota, _, period = text.partition(" ")
    if quota in {"max", "-1"}:
        return None
    if not quota.isdecimal() or not period.isdecimal() or not int(quota) or not int(period):
        raise ValueError(f"{shown(text)} is no quota and period")
    return int(quota) / int(period)


def _bytes(text: str) -> int | None:
    if text in {"max", "-1"}:
        return None
    if not text.isdecimal():
        raise ValueError(f"{shown(text)} is no number of bytes")
    return int(text) if int(text) < NO_LIMIT_V1 else None


def _way_up(surroundings: Surroundings, controller: str) -> Iterator[PurePosixPath]:
    """The directories of this process's group and of those above it, as far as they can be seen.

    Args:
        surroundings: where to look.
        controller: of version 1; "" for version 2.
    """
    group = _own_group(surroundings, controller)
    mount = next((one for one in _mounts(surroundings) if _has(one.controllers, controller)), None)
    if group is None or mount is None:
        return
    directory = mount.place
    if ".." not in group.parts and group.is_relative_to(mount.group):
        below = mount.place / group.relative_to(mount.group)
        directory = below if surroundings.path(str(below)).is_dir() else mount.place
    for _ in range(MAX_DEPTH):
        yield directory
        if directory == mount.place:
            return
        directory = directory.parent


def _has(controllers: frozenset[str], controller: str) -> bool:
    return controller in controllers if controller else not controllers


def _own_group(surroundings: Surroundings, controller: str) -> PurePosixPath | None:
    for line in (surroundings.text("/proc/self/cgroup") or "").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        if controller in controllers.split(",") if controller else (number == "0" and not controllers):
            return PurePosixPath(group or "/")
    return None


def _mounts(surroundings: Surroundings) -> Iterator[_Mount]:
    """What `mountinfo` tells of control groups: root and place are fields 4 and 5, the kind follows a lone dash."""
    for line in (surroundings.text("/proc/self/mountinfo") or "").splitlines():
        before, _, after = line.partition(" - ")
        place, kind = before.split(), after.split()
        if len(place) < 6 or len(kind) < 3 or kind[0] not in {"cgroup", "cgroup2"}:
            continue
        controllers = frozenset(kind[2].split(",")) if kind[0] == "cgroup" else frozenset()
        yield _Mount(controllers, _unescaped(place[3]), _unescaped(place[4]))


def _unescaped(text: str) -> PurePosixPath:
    """A path of `mountinfo`, which writes blanks and the like in octal."""
    return PurePosixPath(_ESCAPE.sub(lambda match: chr(int(match[1], 8)), text))
