"""What a token is: the fields that PiCaS fixed, the four states, and which change leads from where to where.

The content of a token is opaque. These fields have a meaning (design: docs/design/0001-tokens.md):

- `lock`, `done`: 0 or unix seconds; `exit_code`: `""` or an integer. Together they are the token's state.
- `hostname`, `scrub_count`, `error`, and the ids of batch jobs: written by the pilot that holds it.
- `apicas`: one sub-object with all that apicas adds: the claim, its generation, and a few counters.
"""

from __future__ import annotations

import mimetypes
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator, Iterator, Mapping, MutableMapping, Sequence
from enum import StrEnum
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Any, Final, Generic, Protocol, cast

from typing_extensions import TypeVar

from apicas._documents import Document, check_attachment_name, decode, encode, shown
from apicas._javascript import equals_number, greater_than, has_string, parse_int, to_number
from apicas.exceptions import TokenNotFoundError, TransitionError

if TYPE_CHECKING:
    from apicas._node.inventory import Allocation

Model = TypeVar("Model", default=Any)

TYPES: Final = ("token", "task")
"""What a token's `type` may be: PiCaS's own Task says `task` where its user says nothing. Monitor lists type token
only, so tasks are for pilots on a view that lists them."""
# PiCaS writes 99 into lock and done of a token in error. Below this value a lock is a mark and no time.
FIRST_LOCK_TIME: Final = 1_000_000_000
ERROR_MARK: Final = 99
# A double counts exactly up to here. A larger counter is nonsense, and could outgrow every store.
MAX_COUNT: Final = 1 << 53
# The history in a token is a reminder for people, not a log: it stays short, since every write carries it.
MAX_HISTORY: Final = 8
# A token that is retried for ever must not grow beyond what the store takes.
MAX_ERRORS: Final = 50
MAX_MESSAGE: Final = 200
"""Characters of what a token tells of its progress: every beat carries it."""
_ROUNDING: Final = 1e-6
_UNTYPED: Final = object()


class TokenState(StrEnum):
    """The states of a token, named as the Monitor views that list them."""

    TODO = "todo"
    LOCKED = "locked"
    DONE = "done"
    ERROR = "error"
    NO_VIEW = "no view"
    """Not in any Monitor view, as when lock is missing or null. Counted by status, never written to."""


class Change(StrEnum):
    """What can be done to a token."""

    LOCK = "lock"
    REFRESH = "refresh"
    UNLOCK = "unlock"
    CLOSE = "close"
    UNCLOSE = "unclose"
    ADD_OUTPUT = "add output to"
    SCRUB = "scrub"
    SET_ERROR = "set an error on"
    RELEASE = "release"
    RECLAIM = "reclaim"
    CRASH = "charge a crash to"
    RESET = "reset"


_TODO, _LOCKED, _DONE, _ERROR = TokenState.TODO, TokenState.LOCKED, TokenState.DONE, TokenState.ERROR
_NO_VIEW = TokenState.NO_VIEW

TRANSITIONS: Final[Mapping[Change, Mapping[TokenState, tuple[TokenState, ...]]]] = MappingProxyType(
    {
        Change.LOCK: {_TODO: (_LOCKED,)},
        Change.REFRESH: {_LOCKED: (_LOCKED,)},
        Change.UNLOCK: {_TODO: (_TODO,), _LOCKED: (_TODO,)},
        # The exit code decides. Closing twice is legal, and so is closing what set_error closed: PiCaS actors call
        # close themselves.
        Change.CLOSE: {_LOCKED: (_DONE, _ERROR), _DONE: (_DONE,), _ERROR: (_ERROR,)},
        Change.UNCLOSE: {_LOCKED: (_LOCKED,), _DONE: (_LOCKED,), _ERROR: (_LOCKED,)},
        Change.ADD_OUTPUT: {_TODO: (_TODO,), _LOCKED: (_LOCKED,), _DONE: (_DONE,), _ERROR: (_ERROR,)},
        Change.SCRUB: {_LOCKED: (_TODO,), _DONE: (_TODO,), _ERROR: (_TODO,)},
        Change.SET_ERROR: {_TODO: (_ERROR,), _LOCKED: (_ERROR,), _DONE: (_ERROR,), _ERROR: (_ERROR,)},
        # The user's code may have closed a token before its pilot was told to stop.
        Change.RELEASE: {_LOCKED: (_TODO,), _DONE: (_TODO,), _ERROR: (_TODO,)},
        Change.RECLAIM: {_LOCKED: (_TODO,)},
        # Its work died with the process that ran it, which was not the pilot's.
        Change.CRASH: {_LOCKED: (_TODO,)},
        Change.RESET: {_TODO: (_TODO,), _LOCKED: (_TODO,), _DONE: (_TODO,), _ERROR: (_TODO,)},
    }
)
"""Every legal change, and the states that it can lead to. The diagram in the docs is drawn from this table."""


def new_token(content: Mapping[str, Any], identifier: str) -> Document:
    """A document that every PiCaS tool can work with, from a user's content.

    Args:
        content: fields of the user's; `_id` where the user chose one. The `apicas` sub-object and a revision, which
            only make sense in the pool that they come from, are left behind.
        identifier: the `_id` to use where the content has none.
    """
    document: Document = {
        "_id": identifier,
        "type": "token",
        "lock": 0,
        "done": 0,
        "hostname": "",
        "scrub_count": 0,
        "exit_code": "",
        "error": [],
        "input": {},
        "output": {},
        "uploads": {},
    }
    document.update(content)
    for name in ("_rev", "apicas"):
        if name in document:
            del document[name]
    return document


def state_of(document: Mapping[str, Any]) -> TokenState:
    """The state of a token, by the same rules that JavaScript follows in the views."""
    if document.get("type") != "token" and document.get("type") != "task":  # the first nearly always says it
        return _NO_VIEW
    return state_by_fields(document)


def monitor_state(document: Mapping[str, Any]) -> TokenState:
    """The state of a token of type token: which of the Monitor views lists it."""
    return state_of(document) if document.get("type") == "token" else _NO_VIEW


def state_by_fields(document: Mapping[str, Any]) -> TokenState:
    """The state by `lock`, `done` and `exit_code` alone, as for a token that is nested in a document."""
    lock, done = document.get("lock"), document.get("done")
    if type(lock) is not int or type(done) is not int:
        return _state_by_odd_fields(lock, done, document.get("exit_code"))
    if done == 0:  # nearly every token: no coercion needed
        return _TODO if lock == 0 else _LOCKED if lock > 0 else _NO_VIEW
    return _state_by_exit_code(document.get("exit_code")) if lock > 0 and done > 0 else _NO_VIEW


def _state_by_odd_fields(lock: Any, done: Any, exit_code: Any) -> TokenState:
    done_is_zero = equals_number(done, 0)
    if done_is_zero and equals_number(lock, 0):
        return _TODO
    if not greater_than(lock, 0):
        return _NO_VIEW
    if done_is_zero:
        return _LOCKED
    return _state_by_exit_code(exit_code) if greater_than(done, 0) else _NO_VIEW


def _state_by_exit_code(exit_code: Any) -> TokenState:
    if type(exit_code) is int:
        return _DONE if exit_code == 0 else _ERROR
    if not has_string(exit_code):  # the views' parseInt throws, and CouchDB leaves such a document out
        return _NO_VIEW
    return _DONE if parse_int(exit_code) == 0 else _ERROR


def next_states(change: Change, state: TokenState) -> tuple[TokenState, ...]:
    """The states that a change can lead to.

    Raises:
        TransitionError: the token is in no state for that change.
    """
    targets = TRANSITIONS[change]
    try:
        return targets[state]
    except KeyError:
        goal = next(iter(targets.values()))[0]
        raise TransitionError(f"cannot {change} a token that is {state}: {state} -> {goal} is no transition") from None


def annex(document: Mapping[str, Any]) -> Mapping[str, Any]:
    """The `apicas` sub-object of a document; empty where there is none, or where somebody put something else."""
    value = document.get("apicas")
    if type(value) is dict:  # what decoders make; the check for any mapping takes longer than all the rest
        return value
    return value if isinstance(value, Mapping) else {}


def count(value: Any) -> int:
    """A counter of a token, whatever was written there: 0 for what is no positive integer."""
    if type(value) is int:
        return value if 0 < value < MAX_COUNT else 0
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < MAX_COUNT:
        return 0
    return int(value) if value == int(value) else 0  # other tools write 3.0 for 3


def generation_of(document: Mapping[str, Any]) -> int:
    """How many claims, and ways back to todo, the token has behind it. Only ever grows."""
    return count(annex(document).get("generation"))


def attempt_of(document: Mapping[str, Any]) -> int:
    """The number of the last claim, the first is 1; 0 for a token that no apicas pilot has claimed.

    Each claim is a generation, and so is each way back to todo.
    """
    return (generation_of(document) + 1) // 2


def claim_of(document: Mapping[str, Any]) -> str | None:
    """The id of the claim that holds the token, as apicas wrote it; None where no apicas pilot holds it."""
    claim = annex(document).get("claim")
    return claim if isinstance(claim, str) else None


def is_suspect(document: Mapping[str, Any]) -> bool:
    """Whether a pilot vanished while it held the token, perhaps because of it: it now runs in a process of its own."""
    return annex(document).get("suspect") is True


def taken_from(document: Mapping[str, Any]) -> str | None:
    """The claim that the token was reclaimed from, as long as nobody has claimed it since; None for none."""
    claim = annex(document).get("taken")
    return claim if isinstance(claim, str) else None


def not_before(document: Mapping[str, Any]) -> float:
    """Unix seconds before which no pilot claims the token; 0 where it may be claimed at once."""
    value = annex(document).get("not_before")
    if value is None:
        return 0.0
    return to_number(value) if isinstance(value, (int, float)) else 0.0  # float() fails on a huge integer


def is_foreign_lock(document: Mapping[str, Any]) -> bool:
    """Whether somebody other than apicas set the lock: PiCaS, or a script. Such a lock is not refreshed by anybody."""
    return claim_of(document) is None or annex(document).get("lock") != document.get("lock")


def progress_of(fraction: float, message: str = "") -> Document:
    """How far work is, as it is kept: the fraction, and a message that is short and drives no terminal.

    Args:
        fraction: from 0 to 1; what rounding puts a little beside that is taken for 0 or 1.
        message: what it is at.

    Raises:
        ValueError: the fraction is none.
    """
    if isinstance(fraction, bool) or not -_ROUNDING <= fraction <= 1 + _ROUNDING:  # NaN is not, either
        raise ValueError(f"the progress is {fraction}: it is a fraction from 0 to 1")
    text = "".join(map(_printable, str(message)[: MAX_MESSAGE + 1]))
    if len(text) > MAX_MESSAGE:
        text = f"{text[: MAX_MESSAGE - 3]}..."
    return {"fraction": round(min(max(float(fraction), 0.0), 1.0), 4), "message": text}


def _printable(character: str) -> str:
    if character.isprintable():
        return character
    return character.encode("unicode_escape").decode("ascii")


class Keeper(Protocol):
    """What a claimed token belongs to: it settles the token when the user is through with it."""

    async def settle(self, token: Token[Any], error: BaseException | None) -> bool:
        """Commit, fail or release the token; True where the exception has been dealt with."""
        ...

    def stream_attachment(self, token: Token[Any], name: str) -> AsyncIterator[bytes]:
        """Read an attachment that the pool has, in chunks."""
        ...


class Token(MutableMapping[str, Any], Generic[Model]):
    """A token: a mutable mapping over an opaque document, with typed access to the fields that have a meaning.

    Read and write it as a dict. What is changed is written when the token is committed, by the pilot or at the end of
    `async with token:`; a clean end commits it, an exception fails or scrubs it, a cancellation releases it.

    Args:
        document: the document; kept, not copied.
        keeper: whom the token is settled with; None for one that nobody has claimed.
        lease: what the keeper knows this claim by.
        shared: whether the document is somebody else's too, who relies on it: then it is copied, deeply, before
            anything in it can be changed.
    """

    __slots__ = ("_claimed_id", "_document", "_input", "_keeper", "_lease", "_shared", "allocation")

    def __init__(
        self, document: Document, keeper: Keeper | None = None, lease: Any = None, *, shared: bool = False
    ) -> None:
        self._input: Model
        self._document = document
        self._shared: dict[str, Document] | None = {} if shared else None
        self._keeper = keeper
        self._lease = lease
        self.allocation: Allocation | None = None
        """What it was given of the node while it is worked: `cores`, `gpus`, `memory`, `of(name)`; None in a pilot that
        does not pack. The pilot sets it."""
        # What was claimed stays known whatever the user writes into the mapping.
        self._claimed_id: str | None = None if keeper is None else document["_id"]

    def __getitem__(self, key: str) -> Any:
        shared = self._shared  # asked before the value is read: another thread may make the copy in between
        value = self._document[key]
        if shared is not None and isinstance(value, (dict, list)):
            return self.document[key]
        return value

    def __setitem__(self, key: str, value: Any) -> None:
        self.document[key] = value

    def __delitem__(self, key: str) -> None:
        del self.document[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._document)

    def __len__(self) -> int:
        return len(self._document)

    def __contains__(self, key: object) -> bool:
        return key in self._document

    def __repr__(self) -> str:
        return f"<Token {self.get('_id')!r} {self.state}>"

    async def __aenter__(self) -> Token[Model]:
        if self._keeper is None:
            raise RuntimeError(
                "this token is not claimed: `async with token` settles a token that an iterator handed out"
            )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        return await cast("Keeper", self._keeper).settle(self, error)

    @property
    def document(self) -> Document:
        """The document itself, as it will be written."""
        shared = self._shared
        if shared is not None:  # two threads of one piece of work get the same copy: the first one's
            self._document = shared.setdefault("copy", decode(encode(self._document)))
            self._shared = None
        return self._document

    def peek(self) -> Mapping[str, Any]:
        """The document, only to be read: no copy is made for that."""
        return self._document

    @property
    def lease(self) -> Any:
        """What the keeper knows this claim by: the same id may be claimed again, by the same pilot too."""
        return self._lease

    @property
    def id(self) -> str:
        """The `_id`."""
        return self._claimed_id or cast("str", self._document["_id"])

    @property
    def rev(self) -> str | None:
        """The revision that was read or written last; None for a token that is in no store yet."""
        return self._document.get("_rev")

    @property
    def state(self) -> TokenState:
        """Which view lists the token: Monitor's, or for one of type task one of the user's."""
        return state_of(self._document)

    @property
    def input(self) -> Model:
        """What to work on, as it was pushed; a Model where process_token is annotated with `Token[Model]`."""
        typed = getattr(self, "_input", _UNTYPED)  # quicker than an exception, where nobody has asked for a type
        return cast("Model", self.get("input") if typed is _UNTYPED else typed)

    @input.setter
    def input(self, value: Any) -> None:
        self["input"] = value
        if hasattr(self, "_input"):
            self._input = value

    def take_input(self, value: Any) -> None:
        """Have `input` be this, which was made from what is stored: for those who hand out typed tokens."""
        self._input = value

    @property
    def output(self) -> Any:
        """What came out."""
        return self.get("output")

    @output.setter
    def output(self, value: Any) -> None:
        self["output"] = value

    @property
    def exit_code(self) -> Any:
        """`""` until the token ends, then an integer: 0 shows it as done, anything else as error."""
        return self.get("exit_code", "")

    @exit_code.setter
    def exit_code(self, value: int) -> None:
        self["exit_code"] = value

    @property
    def hostname(self) -> str:
        """The node that holds the token, or held it last."""
        hostname = self._document.get("hostname")
        return hostname if isinstance(hostname, str) else ""

    @property
    def scrub_count(self) -> int:
        """How many times the work failed and was sent back to todo."""
        return count(self._document.get("scrub_count"))

    @property
    def crashes(self) -> int:
        """How many times its work took a process down: its own, or a pilot that vanished though it was a suspect."""
        return count(annex(self._document).get("crashes"))

    @property
    def releases(self) -> int:
        """How many times the token was handed back unfinished. Never charged to it."""
        return count(annex(self._document).get("releases"))

    @property
    def generation(self) -> int:
        """How many claims, and ways back to todo, the token has behind it."""
        return generation_of(self._document)

    @property
    def errors(self) -> Sequence[Mapping[str, Any]]:
        """What went wrong, oldest first: `time`, `message`, and `exception` with the traceback."""
        errors = self.get("error")
        return [error for error in errors if isinstance(error, Mapping)] if isinstance(errors, list) else []

    @property
    def attachments(self) -> Sequence[str]:
        """The names of the attachments, those that will be written with the commit included."""
        return list(self._attachments())

    def _attachments(self) -> Mapping[str, Any]:
        attachments = self._document.get("_attachments")
        return attachments if isinstance(attachments, Mapping) else {}

    def progress(self, fraction: float, message: str = "") -> None:
        """Tell how far the work is. The next heartbeat writes it, so call it as often as you like, from any thread.

        It is to be seen as long as the token is held; see `apicas status`. A token that nobody has claimed forgets it.

        Args:
            fraction: from 0 to 1.
            message: what it is at, 200 characters at the most.

        Raises:
            ValueError: the fraction is none.
        """
        told = progress_of(fraction, message)
        if self._lease is not None:
            self._lease.reached(told)

    @property
    def attempt(self) -> int:
        """Which attempt at the token this is, or was the last: the first is 1. A reset in todo leaves out a number."""
        return attempt_of(self._document)

    async def get_attachment(self, name: str) -> bytes:
        """Read an attachment, whole. From the loop that claimed the token: worker processes have no pool.

        Raises:
            TokenNotFoundError: there is no such attachment.
            PoolUnavailableError: the pool does not answer.
        """
        return b"".join([chunk async for chunk in self.stream_attachment(name)])

    async def stream_attachment(self, name: str) -> AsyncIterator[bytes]:
        """Read an attachment in chunks; for files that do not fit into memory. Raises what `get_attachment` raises."""
        attachment = self._attachments().get(name)
        if not isinstance(attachment, Mapping):
            raise TokenNotFoundError(f"token {shown(self.id)} has no attachment {shown(name)}")
        if "data" in attachment:  # it will be written with the commit
            yield b64decode(attachment["data"])
            return
        if self._keeper is None:
            raise RuntimeError("a token that belongs to no pilot here cannot read its attachments: ask the client")
        async for chunk in self._keeper.stream_attachment(self, name):
            yield chunk

    def put_attachment(self, name: str, data: bytes | str, content_type: str | None = None) -> None:
        """Attach a file. It is written together with the token's outcome.

        Args:
            name: the file's name; no slash, no `..`, no leading underscore.
            data: the content; text is stored as UTF-8.
            content_type: a MIME type; guessed from the name where it is left out.

        Raises:
            InvalidTokenError: the name cannot be used.
        """
        check_attachment_name(name)
        content = data.encode() if isinstance(data, str) else data
        attachment = {
            "content_type": content_type or mimetypes.guess_type(name)[0] or "text/plain",
            "data": b64encode(content).decode("ascii"),
        }
        document = self.document  # not a shared one: what is said of the files that are there may be changed as well
        # A new mapping: the old one may still belong to a copy of the document, such as the one that the heartbeat has.
        document["_attachments"] = {**self._attachments(), name: attachment}
