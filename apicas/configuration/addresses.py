"""Pools' addresses: what of one is secret, and which server it is on. Plain functions of texts."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import SplitResult, unquote, urlsplit

from apicas._secrets import Secret

# Not by a parser of URLs: a password with a slash or a hash in it would be taken for something else, and not be seen.
_HAS_PASSWORD: Final = re.compile(r"https?://[^/@:]*:[^@]+@", re.IGNORECASE)
# Of what is no pool's address: a port and an @ somewhere behind it are no password.
_SHOWS_PASSWORD: Final = re.compile(r"https?://[^/@:\s]*:[^/@\s]+@", re.IGNORECASE)


def shows_password(argument: str) -> bool:
    """Whether an argument has a URL with a password somewhere, also one that is written in percents."""
    return any(_SHOWS_PASSWORD.search(text) for text in (argument, unquote(argument)))


def has_password(address: Secret) -> bool:
    """Whether an address shows a password, also one that is written in percents."""
    text = address.reveal()
    return any(_HAS_PASSWORD.match(shown) for shown in (text, unquote(text)))


def origin_of(address: str) -> str:
    """The server of an address, as `https://couch.example:6984`: whom a password is for."""
    url = split(address)
    return f"{url.scheme.lower()}://{url.netloc.rpartition('@')[2].lower()}"


def is_remote(address: str) -> bool:
    """Whether an address is on a server."""
    return split(address).scheme.lower() in {"http", "https"}


def is_encrypted(address: str) -> bool:
    """Whether nobody on the way can read what is sent there."""
    return split(address).scheme.lower() == "https"


def split(address: str) -> SplitResult:
    """The parts of an address; empty ones of what is none."""
    try:
        return urlsplit(address)
    except ValueError:  # the client says so in its own words
        return SplitResult("", "", "", "", "")


def parted(pool: Secret) -> tuple[str | None, str | None, Secret | None]:
    """An address without login, and the login; None for an address that cannot be read."""
    text = pool.reveal()
    url = split(text)
    if not is_remote(text):
        return text, None, None
    if ("@" in text and "@" not in url.netloc) or url.query or url.fragment:
        return None, None, None
    username = unquote(url.username) if url.username else None
    if username and ":" in username:  # what stands behind the colon may be the password, and names are shown
        return None, None, None
    address = url._replace(netloc=url.netloc.rpartition("@")[2]).geturl() if "@" in text else text
    return address, username, Secret(unquote(url.password)) if url.password else None
