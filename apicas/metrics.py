"""Metrics of a pilot for Prometheus. Needs the extra `apicas[metrics]`; see docs/observability.md.

metrics = Metrics()
with metrics.serving("127.0.0.1", 9101):
    await apicas.run(work, pool, observers=[metrics])
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from apicas.events import Claimed, Draining, Ended, Event, PilotEnded, PilotStarted, Reclaimed, Started
from apicas.exceptions import ConfigError

MISSING: Final = "metrics need prometheus-client: pip install 'apicas[metrics]'"
BUCKETS: Final = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 60, 180, 600, 1800, 3600, 10800, 36000)
"""Upper bounds in seconds: tokens take milliseconds or half a day."""
ENDINGS: Final = ("done", "failed", "scrubbed", "crashed", "released", "lost")


class Metrics:
    """An observer that counts.

    Args:
        registry: prometheus-client's, where the host application has its own; None for a new one.

    Raises:
        ConfigError: prometheus-client is not installed.
    """

    def __init__(self, registry: Any = None) -> None:
        try:
            import prometheus_client as prometheus  # noqa: PLC0415 - an extra
        except ImportError:
            raise ConfigError(MISSING) from None
        self.registry = prometheus.CollectorRegistry() if registry is None else registry
        made: dict[str, Any] = {"registry": self.registry, "namespace": "apicas"}
        self._claimed = prometheus.Counter("tokens_claimed", "Tokens claimed.", **made)
        self._started = prometheus.Counter("tokens_started", "Tokens on which work began.", **made)
        self._reclaimed = prometheus.Counter("tokens_reclaimed", "Tokens taken from pilots that are gone.", **made)
        self._ended = prometheus.Counter("tokens_ended", "Tokens that left the pilot, by how.", ["ending"], **made)
        self._held = prometheus.Gauge("tokens_held", "Tokens that the pilot holds.", **made)
        self._running = prometheus.Gauge("tokens_running", "Tokens that began and whose end is not written.", **made)
        self._workers = prometheus.Gauge("workers", "Tokens that are usually worked at once.", **made)
        self._draining = prometheus.Gauge("draining", "1 while the pilot drains.", **made)
        self._seconds = prometheus.Histogram(
            "token_seconds", "Seconds of work on a token, by how it ended.", ["ending"], buckets=BUCKETS, **made
        )
        for ending in ENDINGS:  # a rate needs the zero before the first one
            self._ended.labels(ending)

    def __call__(self, event: Event) -> None:
        """Count an event."""
        match event:
            case Claimed():
                self._claimed.inc()
                self._held.inc()
            case Started():
                self._started.inc()
                self._running.inc()
            case Ended():
                self._end(event)
            case Reclaimed():
                self._reclaimed.inc()
            case PilotStarted():
                self._workers.set(event.workers)
            case Draining():
                self._draining.set(1)
            case PilotEnded():
                self._workers.set(0)
                self._draining.set(0)

    def _end(self, event: Ended) -> None:
        self._ended.labels(event.kind).inc()
        self._held.dec()
        if event.began is not None:
            self._running.dec()
            self._seconds.labels(event.kind).observe(event.seconds)

    @contextmanager
    def serving(self, host: str = "127.0.0.1", port: int = 0) -> Iterator[str]:
        """Serve the metrics over HTTP inside, from a thread; gives the address.

        Raises:
            ConfigError: nothing can be served there.
        """
        import prometheus_client as prometheus  # noqa: PLC0415 - an extra

        try:
            server, thread = prometheus.start_http_server(port, host, self.registry)
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            raise ConfigError(f"metrics cannot be served on {host}, port {port}: {reason}") from error
        name = f"[{host}]" if ":" in host else host
        try:
            yield f"http://{name}:{server.server_port}/metrics"
        finally:
            server.shutdown()
            server.server_close()
            thread.join()
