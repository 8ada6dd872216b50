"""From `--pool` to an open client, with patience for a server that is away."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from typing import Final, TypeVar

from apicas._secrets import Secret
from apicas.cli.terminal import ask_unseen, is_interactive, tell
from apicas.clients.base import PoolClient
from apicas.configuration import FILE_NAME, Configuration, configure
from apicas.exceptions import ConfigError, PoolUnavailableError

T = TypeVar("T")

PATIENCE: Final = 20.0
"""Seconds for which a command tries again: a restart of the server takes less, and a typing error should not wait."""
SILENCE: Final = 20.0
"""Seconds that one request takes until that is said."""


def configured(pool: str | None) -> Configuration:
    """Find the pool and the credentials for it, and ask for a password that is missing.

    Args:
        pool: the value of --pool.

    Raises:
        ConfigError: they cannot be used, or a password is missing and there is nobody to ask.
    """
    configuration = configure(pool)
    if configuration.is_of_picas:  # who follows a tutorial is to see that this is no file in the working directory
        tell(f"the pool is {configuration.pool}, as {configuration.source} says")
    if configuration.lacks_password:
        for note in configuration.notes:
            tell(note)
    return with_password(configuration)


def with_password(configuration: Configuration) -> Configuration:
    """A configuration with the password, asked for where it is missing.

    Raises:
        ConfigError: it is missing, and there is nobody to ask; or the address is none.
    """
    if not configuration.lacks_password:
        return configuration
    configuration.connect(create=False)  # an address that is none is said first: nobody types a password for it
    password = _asked(configuration) if is_interactive() else None
    if password is None:
        raise ConfigError(
            f"no password for {configuration.username!r} on {configuration.pool}: `apicas passwd` keeps it; or set "
            f"$APICAS_PASSWORD, or write password = ... into {FILE_NAME}, or an entry into ~/.netrc"
        )
    return replace(configuration, password=password)


def _asked(configuration: Configuration) -> Secret | None:
    """The password that somebody types in; None where it would be seen."""
    # The name and the address may come from a file of somebody else's making.
    return ask_unseen(f"Password of {configuration.username} on {configuration.pool}: ")


@asynccontextmanager
async def opened(configuration: Configuration, *, create: bool = False) -> AsyncIterator[PoolClient]:
    """Open the pool.

    Args:
        configuration: where it is.
        create: whether a SQLite file that does not exist is made. Else a typing error would make an empty pool.

    Raises:
        PoolNotFoundError: there is no such file.
        PoolUnavailableError: the server is away, and stayed away.
    """
    client = configuration.connect(create=create)
    await patiently(client.open)
    try:
        yield client
    finally:
        await client.aclose()


async def patiently(operation: Callable[[], Awaitable[T]], *, patience: float | None = None) -> T:
    """Do what may be done again, until the pool's server answers; say once that it does not.

    Args:
        operation: what to do.
        patience: seconds; None for PATIENCE.

    Raises:
        PoolUnavailableError: it did not answer for so long.
    """
    attempt = 0
    end = time.monotonic() + (PATIENCE if patience is None else patience)
    while True:
        try:
            with _telling_of_silence():
                return await operation()
        except PoolUnavailableError as error:
            left = end - time.monotonic()
            if left <= 0:
                raise
            if attempt == 0:
                tell(f"{error}; trying again for {left:.0f} s")
        # The last try is at the end, not a whole pause after it.
        await asyncio.sleep(min(_pause(attempt), left))
        attempt += 1


@contextmanager
def _telling_of_silence() -> Iterator[None]:
    """Say that something takes long, so that a server that hangs does not look like a program that does."""
    told = (
        f"still waiting after {SILENCE:.0f} s: a large view takes minutes to index, a large file takes long, or the "
        "server hangs"
    )
    handle = asyncio.get_running_loop().call_later(SILENCE, tell, told)
    try:
        yield
    finally:
        handle.cancel()


def _pause(attempt: int) -> float:
    """Seconds before the next try."""
    from random import Random

    from apicas.policies.retries import Backoff

    return Backoff(first=0.2, most=5.0).delay(attempt, Random())
