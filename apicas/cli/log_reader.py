"""Finds what a token has printed: in the files of its pilot, in its attachments, or in its last heartbeat."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from apicas._documents import Document
from apicas._runtime.attempts.logs import STREAMS, attempts_in, file_name, log_directory
from apicas._runtime.attempts.places import LOGS, place_of
from apicas._runtime.attempts.spool import Follower, rest_of
from apicas.cli.opening import patiently
from apicas.cli.terminal import printable_text, results, tell
from apicas.clients.base import PoolClient
from apicas.exceptions import ConfigError, TokenNotFoundError
from apicas.tokens import Token, TokenState, annex, attempt_of, generation_of, is_foreign_lock, state_of

LOOK: Final = 0.2
"""Seconds between two looks at files."""
ASK: Final = 10
"""Looks between two questions to the pool whether the token has ended."""
_NAMED: Final = 5
"""Attachments that are named where nothing was printed."""


class LogReader:
    """Shows the output of one token.

    Args:
        client: the pool.
        token_id: the token.
    """

    def __init__(self, client: PoolClient, token_id: str) -> None:
        self._client = client
        self._id = token_id
        self._followers: dict[str, Follower] = {}
        self._last_lines: dict[str, str] = {}
        self._shown = False

    async def show(self, *, follow: bool) -> None:
        """Show that of the last attempt, as far as there is any.

        Args:
            follow: whether to go on until the token has ended.

        Raises:
            TokenNotFoundError: there is no such token.
        """
        document = await self._read()
        generation = generation_of(document)
        while _is_held(document) and generation_of(document) == generation:
            self._show_running(document)
            if not follow:
                break
            for _ in range(ASK):
                await asyncio.sleep(LOOK)
                self._show_files()
            document = await self._read()
        else:
            if attempt_of(document) == (generation + 1) // 2:
                await self._show_ended(document)
            else:
                tell("another attempt at the token has begun")
        if not self._shown:
            tell(f"{self._id} has printed nothing that is kept{_elsewhere(document)}")

    async def show_attempt(self, number: int) -> None:
        """Show that of an attempt.

        Raises:
            TokenNotFoundError: there is no such token.
            ConfigError: nothing of that attempt is kept.
        """
        document = await self._read()
        if number == attempt_of(document):
            await self.show(follow=False)
            return
        place = _path_of(document)
        earlier = None if place is None or annex(document).get("claim") else place.parent / str(number)
        if earlier is None or not self._show_kept(earlier):
            await self._show_attachments(document, number)
        if not self._shown:
            kept = ", ".join(map(str, attempts_in(_attachments(document)))) or "no earlier ones"
            raise ConfigError(f"nothing of attempt {number} of {self._id} is kept; of earlier attempts: {kept}")

    async def _read(self) -> Document:
        (document,) = await patiently(lambda: self._client.get([self._id]))
        if document is None:
            raise TokenNotFoundError(f"there is no token {self._id!r}")
        return document

    # While it runs. -------------------------------------------------------------------------------------------------

    def _show_running(self, document: Document) -> None:
        place = _running_path_of(document)
        if place is not None:
            for name in STREAMS:
                self._followers.setdefault(name, Follower(place, name))
            self._show_files()
        else:
            self._show_last_lines(document)

    def _show_files(self) -> None:
        for name, follower in self._followers.items():
            with suppress(FileNotFoundError):  # it has ended, and what is left to be shown is elsewhere
                for content in follower.read():
                    self._write(name, content)

    def _show_last_lines(self, document: Document) -> None:
        entry = _log_of(document)
        lines = {name: text for name in STREAMS if isinstance(text := entry.get(name), str) and text}
        if not lines or lines == self._last_lines:
            return
        self._last_lines = lines
        host = entry.get("host") or document.get("hostname") or "its node"
        tell(f"the last lines, as of the last heartbeat; all of it is on {host}, in {entry.get('path', 'its memory')}")
        for name, text in lines.items():
            self._write(name, text.encode("utf-8", "replace"))

    # When it has ended. ---------------------------------------------------------------------------------------------

    async def _show_ended(self, document: Document) -> None:
        place = _path_of(document)
        if place is not None and self._show_kept(place):
            return
        await self._show_attachments(document, None)
        if not self._shown:
            self._show_running(document)  # its pilot is gone

    def _show_kept(self, place: Path) -> bool:
        """Show the files that were written for good; whether there are any."""
        if not _can_look_into(place):
            return False
        found = [(name, place / file_name(name)) for name in STREAMS if (place / file_name(name)).is_file()]
        for name, path in found:
            self._write_rest(name, path.read_bytes())
        return bool(found)

    async def _show_attachments(self, document: Document, number: int | None) -> None:
        for name in STREAMS:
            if file_name(name, number) in _attachments(document):
                content = await self._client.get_attachment(self._id, file_name(name, number))
                self._write_rest(name, content)

    def _write_rest(self, name: str, content: bytes) -> None:
        """Write what has not been followed."""
        follower = self._followers.get(name)
        self._write(name, content if follower is None else rest_of(content, follower.position))

    def _write(self, name: str, content: bytes) -> None:
        if not content:
            return
        self._shown = True
        stream = sys.stdout if name == "stdout" else sys.stderr
        with results():
            if stream.isatty():  # what a token prints may be meant to drive it
                stream.write(printable_text(content.decode("utf-8", "replace")))
            else:
                stream.flush()
                stream.buffer.write(content)
            stream.flush()


def _is_held(document: Document) -> bool:
    return state_of(document) is TokenState.LOCKED and not is_foreign_lock(document)


def _log_of(document: Document) -> Mapping[str, Any]:
    entry = annex(document).get("log")
    return entry if isinstance(entry, Mapping) else {}


def _path_of(document: Document) -> Path | None:
    path = _log_of(document).get("path")
    return Path(path) if isinstance(path, str) and path.startswith("/") and "\0" not in path else None


def _can_look_into(place: Path) -> bool:
    return os.path.isdir(place) and os.access(place, os.R_OK | os.X_OK)  # noqa: PTH112 - any path, the odd ones too


def _running_path_of(document: Document) -> Path | None:
    """Where the output of a running attempt can be followed: as a beat has told, or where it is before the first."""
    told = _path_of(document)
    if told is not None and _can_look_into(told):
        return told
    place = place_of(annex(document))
    guessed = None if place is None else log_directory(place / LOGS, document["_id"], attempt_of(document))
    return guessed if guessed is not None and _can_look_into(guessed) else None


def _attachments(document: Document) -> Mapping[str, Any]:
    files = document.get("_attachments")
    return files if isinstance(files, Mapping) else {}


def _elsewhere(document: Document) -> str:
    """Where else what a token printed may be."""
    names = sorted(Token(document).attachments)
    if names:
        more = ", ..." if len(names) > _NAMED else ""
        return f"; it has attachments: {', '.join(names[:_NAMED])}{more} (`apicas attachments TOKEN NAME`)"
    return "; work on the loop or in a thread prints where its pilot prints" if attempt_of(document) else ""
