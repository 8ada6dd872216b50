"""Claims that walk: what a modelled pool answers to apicas's own Stretches, which decides where a claim reads.

Ids are numbers with zeros in front, uploaded in their order.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any, Final, TypeAlias

from apicas._documents import Document
from apicas.clients.couch.landing import Row, Update
from apicas.clients.couch.stretches import Stretches
from benchmarks.scaling.engine import Callback, Engine, Process, Signal
from benchmarks.scaling.pool import Tokens
from benchmarks.scaling.server import CouchModel

Request: TypeAlias = Callable[[Callback], object]
Send = Callable[[Request], Process]
Answer: TypeAlias = Mapping[str, Any]

_DIGITS: Final = 8
_TODO: Final[Document] = {"type": "token", "lock": 0, "done": 0}
_TAKEN: Final[Document] = {"type": "token", "lock": 1, "done": 0}


def id_of(token: int) -> str:
    """The id of a token."""
    return f"{token:0{_DIGITS}d}"


def token_of(key: str) -> int:
    """The first token whose id is not before a key."""
    return int(key[:_DIGITS].ljust(_DIGITS, "0")) + (len(key) > _DIGITS)


def todo_of(tokens: Tokens, parameters: Mapping[str, Any]) -> Answer:
    """What Monitor/todo answers, as its index is: rows, the rank of the first, and how many there are."""
    limit = parameters["limit"]
    if parameters.get("descending"):  # only the last one is asked for
        return {"rows": _rows(tokens.last_listed()), "total_rows": tokens.rows}
    start = min(tokens.number, token_of(parameters.get("startkey") or ""))
    end = token_of(parameters["endkey"]) if "endkey" in parameters else tokens.number
    return {
        "rows": _rows(tokens.listed(start, end, limit)),
        "total_rows": tokens.rows,
        "offset": tokens.rank(start),
    }


def locked_of(tokens: Tokens, parameters: Mapping[str, Any]) -> Answer:
    """What Monitor/locked answers to who asks for the last one before a key; it is taken to be up to date."""
    return {"rows": _rows(tokens.locked_before(min(tokens.number - 1, token_of(parameters["startkey"]))))}


def _rows(tokens: Sequence[int]) -> list[Row]:
    ids = map(id_of, tokens)
    return [{"id": one, "key": one} for one in ids]


def request_rows(
    server: CouchModel, tokens: Tokens, update: Update, look: Callable[[], Answer], answers: list[Answer]
) -> Request:
    """A request for rows, whose answer is put into a list."""

    def listed() -> int:
        tokens.index(server.indexed_until)
        answers.append(look())
        return len(answers[-1]["rows"])

    return lambda done: server.rows(listed, done, fresh=update == "true", lazy=update == "lazy")


class Walk:
    """Where one modelled pilot claims: apicas's Stretches, whose requests take the time of the modelled server.

    Args:
        engine: the time.
        server: of the pool.
        tokens: in it.
        send: sends a request and waits for its answer.
        note_read: told how many bodies were read.
    """

    def __init__(
        self, engine: Engine, server: CouchModel, tokens: Tokens, send: Send, note_read: Callable[[int], None]
    ) -> None:
        self._server = server
        self._tokens = tokens
        self._send = send
        self._note_read = note_read
        self.stretches = Stretches(self._ask_todo, self._ask_locked, self._read, engine.time)
        # Its own asks for an event loop.
        self.stretches._one_at_a_time = _Lock(engine)  # type: ignore[assignment]  # noqa: SLF001

    def sample(self, limit: int, place: float, window: int) -> Process:
        """Tokens to claim."""
        sample = self.stretches.sample(limit, place, window=window, fresh=True)
        found: list[Document] = yield from sample.__await__()
        return [document["token"] for document in found]

    async def _ask_todo(self, parameters: Mapping[str, Any], update: Update) -> Answer:
        return await self._ask(lambda: todo_of(self._tokens, parameters), update)

    async def _ask_locked(self, parameters: Mapping[str, Any], update: Update) -> Answer:
        return await self._ask(lambda: locked_of(self._tokens, parameters), update)

    async def _ask(self, look: Callable[[], Answer], update: Update) -> Answer:
        answers: list[Answer] = []
        await _Sent(self._send(request_rows(self._server, self._tokens, update, look, answers)))
        return answers[-1]

    async def _read(self, ids: Sequence[str]) -> dict[str, Document]:
        await _Sent(self._send(lambda done: self._server.bodies(len(ids), done)))
        self._note_read(len(ids))
        tokens = self._tokens
        return {
            one: {**(_TODO if tokens.is_todo(number) else _TAKEN), "token": number}
            for one, number in zip(ids, map(int, ids), strict=True)
        }


class _Sent:
    """A process that a coroutine waits for, when it is run as a process itself."""

    def __init__(self, process: Process) -> None:
        self._process = process

    def __await__(self) -> Generator[Any, Any, Any]:
        return (yield from self._process)


class _Lock:
    """One at a time; at most one waits."""

    def __init__(self, engine: Engine) -> None:
        self._is_held = False
        self._is_free = Signal(engine)

    async def __aenter__(self) -> None:
        while self._is_held:
            await _Sent(_waiting(self._is_free))
        self._is_held = True

    async def __aexit__(self, *_: object) -> None:
        self._is_held = False
        self._is_free.set()


def _waiting(signal: Signal) -> Process:
    return (yield signal.wait())
