"""Safekeeping: what a pilot asks of its outbox, which may fail without harm.

An outbox that cannot be written is said, once per kind of failure. The outcomes stay in memory, and are still
committed: the pilot goes on.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Final

import anyio

from apicas._documents import Document
from apicas._runtime.environment import Environment
from apicas._runtime.keeping.settlements import Settlement
from apicas._runtime.outbox.disk import Outbox, writes_ahead
from apicas._runtime.outbox.entries import Entry
from apicas._runtime.outbox.replay import Replayer, ReplayReport
from apicas.clients.port import Client
from apicas.exceptions import ConfigError, PoolError

log = logging.getLogger("apicas.outbox")

PUT_AWAY_TIME: Final = 5.0
"""Seconds that the end of a pilot may wait for the disk, which has nearly all by then."""
LONG: Final = 1.0
"""Seconds of work from which on an outcome is kept before the first attempt to write it."""


class Safekeeping:
    """Keeps what a pilot has not written yet.

    Args:
        outbox: where; None for nowhere.
        client: the pool.
        environment: who we are.
        lease: seconds, for claims that carry none.
    """

    def __init__(self, outbox: Outbox | None, client: Client, environment: Environment, lease: float) -> None:
        self.outbox = outbox
        self._client = client
        self._environment = environment
        self._ahead = outbox is not None and writes_ahead(client.address)
        self._replayer = None if outbox is None else Replayer(client, outbox, environment, lease)
        self._failure: tuple[object, ...] | None = None
        self._written: list[str] = []
        self._tidying = anyio.Lock(fast_acquire=True)

    @property
    def place(self) -> str:
        """Where it is, for people."""
        return "" if self.outbox is None else self.outbox.place

    async def check(self) -> None:
        """Make the outbox ready.

        Raises:
            ConfigError: it cannot be used.
        """
        if self.outbox is not None:
            await self.outbox.check()

    def comes_first(self, settlement: Settlement) -> bool:
        """Whether an outcome is kept before the first attempt to write it."""
        return settlement.ran >= LONG and self._ahead and settlement.is_finished

    async def keep(self, settlements: Sequence[Settlement]) -> None:
        """Keep those of some outcomes that are finished results, and are not kept yet."""
        new = [one for one in settlements if one.is_finished and not one.kept and one.ending is None]
        if self.outbox is None or not new:
            return
        for one in new:
            one.touched = True  # from now on there may be a file, whatever comes of this
        try:
            await self.outbox.put([self._entry(one) for one in new])
        except (OSError, ConfigError) as error:
            self._say_failed(error, len(new))
            return
        for one in new:
            one.kept = True
            if one.ending is not None:  # it was written while the disk was at work
                self.written(one)
        self._say_back()

    async def set_aside(self, settlements: Sequence[Settlement], reason: str) -> dict[Settlement, str]:
        """Keep finished results that will not be written where a user finds them; answers where each is."""
        finished = [one for one in settlements if one.is_finished]
        if self.outbox is None or not finished:
            return {}
        try:
            places = await self.outbox.set_aside([self._entry(one, reason) for one in finished])
        except (OSError, ConfigError) as error:
            self._say_failed(error, len(finished))
            return {}
        self._say_back()
        for one in finished:
            one.kept = one.touched = False
        return dict(zip(finished, places, strict=True))

    def written(self, settlement: Settlement) -> None:
        """Note that an outcome needs to be kept no longer."""
        if settlement.touched:
            self._written.append(self._name(settlement))

    async def tidy(self) -> None:
        """Forget what needs to be kept no longer."""
        async with self._tidying:
            if self.outbox is None or not self._written:
                return
            names = list(self._written)
            try:
                await self.outbox.remove(names)
            except (OSError, ConfigError) as error:  # a replay will find it settled
                log.debug("%d written outcomes stay in %s: %s", len(names), self.place, error)
            del self._written[: len(names)]  # not where this was cancelled: whoever comes last does it

    async def replay(self) -> ReplayReport | None:
        """Write what other pilots left, as far as they are gone or cut off; None where the pool or the disk is away."""
        if self._replayer is None:
            return None
        try:
            return await self._replayer.run_once()
        except PoolError as error:
            log.debug("replay: %s", error)
        except (OSError, ConfigError) as error:
            self._say_failed(error, 0)
        return None

    def _name(self, settlement: Settlement) -> str:
        return self._entry(settlement).name

    def _entry(self, settlement: Settlement, reason: str = "") -> Entry:
        lease, owner = settlement.lease, self._environment.owner
        return Entry(
            pool=self._client.address,
            token=lease.token_id,
            claim=lease.claim_id,
            stored=_plain(lease.stored),
            base=_plain(lease.base),
            outcome=settlement.outcome.document,
            ending=settlement.outcome.ending.value,
            time=self._client.time(),
            hostname=owner.hostname,
            pilot=owner.pilot,
            process=owner.process,
            reason=reason,
        )

    def _say_failed(self, error: OSError | ConfigError, outcomes: int) -> None:
        kind = (type(error), getattr(error, "errno", None) or str(error))
        if kind == self._failure:
            return
        self._failure = kind
        reason = (isinstance(error, OSError) and error.strerror) or str(error)
        kept = f"; {outcomes} finished results are kept in memory only" if outcomes else ""
        log.error("the outbox %s cannot be used: %s%s", self.place, reason, kept)

    def _say_back(self) -> None:
        if self._failure is not None:
            self._failure = None
            log.info("the outbox %s can be used again", self.place)


def _plain(document: Document) -> Document:
    """A document without what a store says about it beside its content."""
    return {name: value for name, value in document.items() if name != "_conflicts"}
