"""The token that users hold: a mapping over its document."""

from __future__ import annotations

import mimetypes
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator, Iterator, Mapping, MutableMapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Generic, Protocol, cast

from typing_extensions import TypeVar

from apicas._documents import Document, check_attachment_name, decode, encode, shown
from apicas.exceptions import TokenNotFoundError
from apicas.tokens.fields import annex, attempt_of, count, generation_of, progress_of
from apicas.tokens.states import TokenState, state_of

if TYPE_CHECKING:
    from apicas._node.inventory import Allocation

Model = TypeVar("Model", default=Any)
_UNTYPED: Final = object()


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
