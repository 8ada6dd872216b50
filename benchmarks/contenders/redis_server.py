"""A Redis for one measurement, on loopback, without persistence: what it holds is gone when it ends."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from tempfile import TemporaryDirectory
from typing import Any, Final, TypeAlias

from benchmarks.contenders.environments import redis_server
from benchmarks.contenders.processes import run_together, sample_of
from benchmarks.contenders.worker import run
from benchmarks.measuring import Sample, Trial
from benchmarks.ports import free_port

Settings: TypeAlias = dict[str, Any]
_START: Final = 20.0
"""Seconds within which it has to answer."""
_OWN: Final = "Redis in memory, nothing on disk: a crash of the server loses all jobs"
_GIVEN: Final = "Redis as it was given"


@contextmanager
def redis_for(trial: Trial) -> Iterator[str]:
    """The URL of a Redis: the one that the trial names, or one that is started and stopped here.

    Raises:
        Skipped: there is no redis-server to start.
        RuntimeError: it does not answer.
    """
    if trial.store:
        yield trial.store
        return
    program = redis_server()
    with TemporaryDirectory(dir=trial.directory or None, prefix="redis-") as directory:
        port = free_port()
        options = ["--port", str(port), "--bind", "127.0.0.1", "--dir", directory, "--save", "", "--appendonly", "no"]
        process = subprocess.Popen([program, *options], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        try:
            _wait_for(process, port)
            yield f"redis://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait()


def _wait_for(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + _START
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
            connection.sendall(b"PING\r\n")
            if connection.recv(16).startswith(b"+PONG"):
                return
        time.sleep(0.02)
    raise RuntimeError("redis-server does not answer")


def measure_on_redis(
    module: str, trial: Trial, upload: Callable[[Settings], Coroutine[Any, Any, None]], *notes: str
) -> Sample:
    """Measure a queue that lives in Redis.

    Args:
        module: of the contender; it has `work`.
        trial: what is asked for.
        upload: puts `tokens` jobs, numbered from 0, into the queue.
        notes: what a reader has to know of this queue.

    Raises:
        Skipped: there is no redis-server to start.
    """
    with redis_for(trial) as url:
        # A Redis that somebody else uses does not have a queue of this name.
        queue = f"apicas-bench-{time.time_ns():x}"
        settings = {"url": url, "queue": queue, "tokens": trial.tokens, "workers": trial.workers}
        began = time.monotonic()
        run(upload(settings))
        uploaded = time.monotonic() - began
        started, reports = run_together(module, [settings] * trial.pilots)
    return sample_of(trial, started, reports, upload_seconds=uploaded, notes=[_GIVEN if trial.store else _OWN, *notes])
