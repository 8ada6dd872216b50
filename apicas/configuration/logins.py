"""Name and password for an address: from the places that may give them to its server, the nearest first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Final, NamedTuple

from apicas._secrets import Secret
from apicas.configuration.addresses import is_encrypted, is_remote, origin_of, split
from apicas.configuration.environment import Surroundings
from apicas.configuration.keys import PICAS_CONF, PICAS_MODULE
from apicas.configuration.sources import Source, is_there


class Places:
    """Where a login is looked for.

    Args:
        sources: the places of apicas, the one that decides first.
        around: what the environment says.
        directory: the working directory.
        own: the user's configuration directory.
    """

    def __init__(self, sources: Sequence[Source], around: Surroundings, directory: Path, own: Path) -> None:
        self.sources = sources
        self.around = around
        self.own = own
        self._directory = directory

    @cached_property
    def of_picas(self) -> Sequence[Source]:
        """What PiCaS's files say: read when they are asked for, since most users have none."""
        home = self.around.home
        paths = [self._directory / PICAS_MODULE, *([] if home is None else [home / PICAS_CONF])]
        if not any(is_there(path) for path in paths):
            return ()
        from apicas.configuration.picas import picas_sources

        return picas_sources(home, self._directory, self.around.lookup)


@dataclass(slots=True)
class Login:
    """What was found."""

    username: str | None = None
    password: Secret | None = None
    origins: dict[str, str] = field(default_factory=dict)
    """Where the name and the password come from."""
    notes: list[str] = field(default_factory=list)
    """What could not be read."""


class _Found(NamedTuple):
    username: str | None
    password: Secret
    place: str


@dataclass(frozen=True, slots=True)
class _Search:
    """One search for a password."""

    address: str
    chosen: Source | None
    """The place that the address comes from."""
    username: str | None
    """Whose, if that is known already."""
    places: Places
    notes: list[str]

    def near(self) -> _Found | None:
        """From the places of apicas, the one of the address first."""
        for source in _permitted(self.address, self.chosen, self.places.sources):
            if source.password is not None and source.username in {None, self.username}:
                return _Found(self.username, source.password, source.name)
        return None

    def kept(self) -> _Found | None:
        """What `apicas passwd` keeps."""
        from apicas.configuration.stored import stored_login

        found = stored_login(self.places.own, origin_of(self.address), self.username)
        return None if found is None else _Found(*found)

    def by_netrc(self) -> _Found | None:
        """From the user's netrc, by the host."""
        from apicas._netrc import netrc_login

        path = self.places.around.netrc
        # A file in somebody's directory may name a host of ours: not by a connection that others can listen to.
        is_safe = self.chosen is None or not self.chosen.is_shared or is_encrypted(self.address)
        if path is None or not is_safe:
            return None
        found = netrc_login(path, split(self.address).hostname or "")
        if found is None or (found[0] and self.username not in {None, found[0]}):
            return None
        return _Found(self.username or found[0] or None, found[1], str(path))

    def of_picas(self) -> _Found | None:
        """From PiCaS's files, which may have an old one."""
        for source in _permitted(self.address, self.chosen, self.places.of_picas):
            username = self.username or source.username
            if source.unlock is None or source.username not in {None, username}:
                continue
            password = source.unlock()
            if isinstance(password, Secret):
                return _Found(username, password, source.name)
            self.notes.append(password)
        return None


_ORDER: Final[Sequence[Callable[[_Search], _Found | None]]] = (
    _Search.near,
    _Search.kept,
    _Search.by_netrc,
    _Search.of_picas,
)


def find_login(address: str, chosen: Source | None, places: Places) -> Login:
    """Find the name and the password for an address.

    Args:
        address: the pool's, without login.
        chosen: the place that it comes from; None for the default.
        places: where to look.

    Raises:
        ConfigError: a file with passwords cannot be used.
    """
    if not is_remote(address):
        return Login()
    login = Login()
    named = _name(address, chosen, places.sources)
    username = None if named is None else named[0]
    search = _Search(address, chosen, username, places, login.notes)
    found = next((found for find in _ORDER if (found := find(search)) is not None), None)
    if found is not None:
        login.password, login.origins["password"] = found.password, found.place
        named = named or (None if found.username is None else (found.username, found.place))
    if named is None:
        named = _name(address, chosen, places.of_picas)
    if named is not None:
        login.username, login.origins["username"] = named
    return login


def _name(address: str, chosen: Source | None, sources: Sequence[Source]) -> tuple[str, str] | None:
    """Who we are to an address, and who says so: in the address, else by the nearest place."""
    if chosen is not None and chosen.in_address:
        return chosen.in_address, chosen.name
    first: Sequence[Source] = [] if chosen is None else [chosen]
    for source in [*first, *_permitted(address, chosen, sources)]:
        if source.username:
            return source.username, source.name
    return None


def _permitted(address: str, chosen: Source | None, sources: Sequence[Source]) -> list[Source]:
    """The places whose credentials may go to an address, the one that it comes from first."""
    first = [chosen] if chosen is not None and chosen in sources else []
    others = [source for source in sources if source is not chosen]
    return [*first, *(source for source in others if _may_log_in(source, chosen, address))]


def _may_log_in(source: Source, chosen: Source | None, address: str) -> bool:
    """Whether the credentials of one place may go to an address that comes from another."""
    if not source.is_file:
        return True
    if source.address is None:  # meant for the pool that the user names, though not for one that another file names
        return not source.is_foreign and (chosen is None or not chosen.is_file)
    return origin_of(source.address) == origin_of(address)
