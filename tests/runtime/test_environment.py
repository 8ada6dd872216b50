"""Which processes are known to be gone: only those of this boot that really are."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest

from apicas._runtime.environment import boot_id, process_is_gone, process_name, process_start, real_environment

pytestmark = pytest.mark.skipif(not boot_id(), reason="this system does not tell its boot's id")


def claimed_by(pid: object, started: object, boot: str | None = None) -> dict[str, Any]:
    return {"apicas": {"claim": "c", "process": f"{boot or boot_id()}.{pid}.{started}"}}


def test_a_claim_names_its_process() -> None:
    """As a claim of this process does."""
    assert claimed_by(os.getpid(), process_start(os.getpid()))["apicas"]["process"] == process_name(os.getpid())


def test_a_process_that_lives_is_not_gone() -> None:
    """Ours, with our start time."""
    assert not process_is_gone(claimed_by(os.getpid(), process_start(os.getpid())), boot_id())


def test_a_process_that_ended_is_gone() -> None:
    """One that ran, and was waited for."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    started = process_start(process.pid)
    claim = claimed_by(process.pid, started)
    assert started
    assert not process_is_gone(claim, boot_id())
    process.communicate(b"\n")
    assert process_is_gone(claim, boot_id())


def test_a_process_id_that_is_used_again_is_another_process() -> None:
    """The start time tells them apart."""
    started = process_start(os.getpid())
    assert started
    assert process_is_gone(claimed_by(os.getpid(), started - 1), boot_id())


def test_nothing_is_known_of_other_nodes() -> None:
    """Another boot, another process-id namespace, or a claim that does not say."""
    assert not process_is_gone(claimed_by(2**22 + 1, 1, boot="e15e"), boot_id())
    assert not process_is_gone({"apicas": {"claim": "c"}}, boot_id())
    assert not process_is_gone({}, boot_id())
    assert not process_is_gone(claimed_by(2**22 + 1, 1), "")
    for pid in (True, "x", None, -1, 0, "0x1", ""):
        assert not process_is_gone(claimed_by(pid, 1), boot_id())
    for process in (None, 1, "", ".", boot_id(), f"{boot_id()}.1", [boot_id()], f"{boot_id()}.1.2.3"):
        assert not process_is_gone({"apicas": {"claim": "c", "process": process}}, boot_id())


def test_where_the_start_is_not_told_only_a_missing_process_is_gone() -> None:
    """A process id that somebody has may be its own."""
    assert not process_is_gone(claimed_by(os.getpid(), ""), boot_id())
    assert process_is_gone(claimed_by(2**22 + 1, ""), boot_id())


def test_each_pilot_has_an_id_of_its_own() -> None:
    """Random per start, however alike their processes are."""
    first, second = real_environment().owner, real_environment().owner
    assert first.pilot != second.pilot
    assert first.process == second.process == process_name(os.getpid())
