"""The contenders by name: where each runs, and what it needs."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal, TypeAlias

Environment: TypeAlias = Literal["ours", "peer"]
"""The Python that measures: the one that apicas is installed in, or one of the peer's own."""
Store: TypeAlias = Literal["couch", "file", "redis", "none"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """One entry of the list."""

    module: str
    """In this package. It has `measure(trial) -> Sample`, and runs as `python -m benchmarks.contenders NAME`."""
    stores: tuple[Store, ...]
    """What it can work on: a CouchDB that `Trial.store` names, a file in `Trial.directory`, a Redis (its own where
    `Trial.store` is empty), or nothing at all."""
    workloads: tuple[str, ...] = ("noop",)
    environment: Environment = "ours"
    what: str = ""
    """One line for a table or a plot."""


_RAW: Final = "raw loop"
CONTENDERS: Final = MappingProxyType(
    {
        "apicas": Contender(
            module="apicas",
            stores=("couch", "file"),
            workloads=("noop", "sleep", "process", "cpu", "large", "attachment"),
            what="apicas",
        ),
        "apicas_upload": Contender(module="apicas_upload", stores=("couch", "file"), what="apicas upload"),
        "picas": Contender(module="picas", stores=("couch",), workloads=("noop", "sleep"), what="PiCaS 1.1.2"),
        "saq": Contender(module="saq", stores=("redis",), environment="peer", what="SAQ on Redis"),
        "arq": Contender(module="arq", stores=("redis",), environment="peer", what="arq on Redis"),
        "streaq": Contender(module="streaq", stores=("redis",), environment="peer", what="streaQ on Redis"),
        "taskiq": Contender(module="taskiq", stores=("redis",), environment="peer", what="taskiq on Redis"),
        "huey": Contender(module="huey", stores=("file",), environment="peer", what="huey on SQLite"),
        "huey_one": Contender(module="huey", stores=("file",), environment="peer", what="huey on SQLite, one thread"),
        "huey_redis": Contender(module="huey", stores=("redis",), environment="peer", what="huey on Redis"),
        "raw_couch": Contender(module="raw_couch", stores=("couch",), what=f"{_RAW} on CouchDB"),
        "raw_couch_two": Contender(module="raw_couch", stores=("couch",), what="two raw loops on CouchDB"),
        "raw_sqlite": Contender(module="raw_sqlite", stores=("file",), what=f"{_RAW} with workers on SQLite"),
        "raw_sqlite_loop": Contender(module="raw_sqlite", stores=("file",), what=f"{_RAW} without workers on SQLite"),
        "raw_upload": Contender(module="raw_upload", stores=("couch", "file"), what="raw upload"),
        "raw_sleep": Contender(module="raw_sleep", stores=("none",), workloads=("sleep",), what="sleeps, no store"),
        "raw_process": Contender(
            module="raw_process", stores=("none",), workloads=("process",), what="processes, no store"
        ),
    }
)
"""By the name that `Trial.contender` and the command line have."""
