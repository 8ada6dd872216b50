"""What a glance at the log of a pool's file says: that somebody wrote may be wrong, that nobody did may not."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from apicas.clients.sqlite.arriving import Glance

HOUR = 3600 * 10**9


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """A log that was last written an hour ago."""
    path = tmp_path / "pool.db-wal"
    path.write_bytes(b"frames")
    written(path, HOUR)
    return path


def written(path: Path, ago: int) -> None:
    """Set when a file was written."""
    at = time.time_ns() - ago
    os.utime(path, ns=(at, at))


def quiet(log: Path) -> Glance:
    """A glance that has seen all there is."""
    glance = Glance(str(log))
    assert glance.sees_change(0)
    assert not glance.sees_change(0)
    return glance


def test_a_log_that_nobody_wrote_has_no_news(log: Path) -> None:
    """But for a check now and then, for file systems whose time stamps mean nothing."""
    glance = quiet(log)
    seen = [glance.sees_change(0) for _ in range(200)]
    assert 2 <= sum(seen) <= 5


def test_each_kind_of_write_is_seen(log: Path) -> None:
    """A new time stamp, a new length, a commit of this process's own."""
    glance = quiet(log)
    written(log, HOUR // 2)
    assert glance.sees_change(0)
    before = log.stat()
    log.write_bytes(b"more frames")
    os.utime(log, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert glance.sees_change(0)
    assert glance.sees_change(1)
    assert not glance.sees_change(1)


def test_a_fresh_time_stamp_says_nothing(log: Path) -> None:
    """Two writes within one tick of the kernel's clock have the same one. So does a clock that was set back."""
    glance = quiet(log)
    for ago in (0, -HOUR):
        written(log, ago)
        assert glance.sees_change(0)
        assert glance.sees_change(0)


def test_without_a_log_the_counter_is_read_more_often(log: Path) -> None:
    """A file that one process has to itself may have none; what this process commits is seen at once."""
    log.unlink()
    glance = Glance(str(log))
    assert glance.sees_change(0)
    assert 18 <= sum(glance.sees_change(0) for _ in range(100)) <= 22
    assert glance.sees_change(1)
    log.write_bytes(b"frames")
    assert glance.sees_change(1)
