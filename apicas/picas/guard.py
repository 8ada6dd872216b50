"""The database of a PiCaS actor, in a process that works tokens: as it was, but for the token that is worked there.

Rules:
- What an actor saves of the token that it works goes into the outcome, which the pilot writes under the fence. A write
  of its own would break the claim.
- Everything else goes straight to the database, over a connection of this process.
- Nothing of `picas` or `couchdb` is imported: the classes are those of the objects that the actor brought along.
"""

from __future__ import annotations

import copy
import copyreg
import mimetypes
import os
import sys
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from functools import cache
from io import BytesIO
from typing import Any, Final, NamedTuple, cast

from apicas._documents import Document, check_attachment_name

_NEVER_MERGED: Final = frozenset({"_id", "_rev", "apicas", "_attachments"})


class HeldToken:
    """The token that is worked in this process: its document as it is, and as it was."""

    def __init__(self) -> None:
        self.document: Document | None = None
        self._before: Document = {}

    def begin(self, document: Document) -> None:
        """A token is worked from now on."""
        self.document = document
        self._before = copy.deepcopy(document)

    def end(self) -> None:
        """No token is worked any more."""
        self.document = None

    def is_it(self, identifier: object) -> bool:
        """Whether the token with this id is the one."""
        return self.document is not None and self.document["_id"] == identifier

    def content(self) -> Document:
        """A copy of the document, as it is by now."""
        return copy.deepcopy(self.document or {})

    def merge(self, saved: Mapping[str, Any]) -> tuple[str, Any]:
        """Take over what a copy of the document has changed; answers with the id and the revision.

        A field is changed that differs from what it was when the work began.
        """
        document = self.document
        assert document is not None  # noqa: S101 - asked for by `is_it`
        if saved is not document:
            document.update({name: value for name, value in saved.items() if self._is_changed(name, value)})
            for name in self._before.keys() - saved.keys() - _NEVER_MERGED:
                document.pop(name, None)
            if isinstance(files := saved.get("_attachments"), Mapping):
                self._attach(files)
        return document["_id"], document.get("_rev")

    def attach(self, name: str, data: bytes, content_type: str) -> None:
        """Put a file into the document."""
        check_attachment_name(name)
        self._attach({name: {"content_type": content_type, "data": b64encode(data).decode("ascii")}})

    def attachment(self, name: str) -> bytes | None:
        """A file that was put into the document here; None for one that is in the database only, or nowhere."""
        file = self._files().get(name)
        data = file.get("data") if isinstance(file, Mapping) else None
        return None if data is None else b64decode(data)

    def detach(self, name: str) -> None:
        """Take a file out of the document."""
        if self.document is not None:
            self.document["_attachments"] = {one: file for one, file in self._files().items() if one != name}

    def _is_changed(self, name: str, value: Any) -> bool:
        return name not in _NEVER_MERGED and (name not in self._before or self._before[name] != value)

    def _attach(self, files: Mapping[str, Any]) -> None:
        if self.document is not None:
            self.document["_attachments"] = {**self._files(), **files}

    def _files(self) -> Mapping[str, Any]:
        files = (self.document or {}).get("_attachments")
        return files if isinstance(files, Mapping) else {}


held: Final = HeldToken()
"""There is one actor in a process, and it works one token at a time."""


class GuardedDatabase:
    """What comes before the methods of `couchdb.Database` that read or write documents."""

    def __getitem__(self, identifier: str) -> Any:
        return self._copy() if held.is_it(identifier) else cast("Any", super())[identifier]

    def __setitem__(self, identifier: str, content: Any) -> None:
        if held.is_it(identifier):
            held.merge(content)
        else:
            cast("Any", super()).__setitem__(identifier, content)

    def __delitem__(self, identifier: str) -> None:
        _check_not_held(identifier)
        cast("Any", super()).__delitem__(identifier)

    def get(self, id: str, default: Any = None, **options: Any) -> Any:  # noqa: A002 - as it is called there
        """Read a document."""
        if held.is_it(id) and not options:
            return self._copy()
        return cast("Any", super()).get(id, default, **options)

    def save(self, doc: Any, **options: Any) -> tuple[str, Any]:
        """Write a document."""
        if held.is_it(doc.get("_id")):
            return held.merge(doc)
        return cast("tuple[str, Any]", cast("Any", super()).save(doc, **options))

    def update(self, documents: Sequence[Any], **options: Any) -> list[tuple[bool, str, Any]]:
        """Write documents, and answer for each in their order."""
        documents = list(documents)
        others = [document for document in documents if not held.is_it(document.get("_id"))]
        answers = iter(cast("Any", super()).update(others, **options) if others else ())
        return [
            (True, *held.merge(document)) if held.is_it(document.get("_id")) else next(answers)
            for document in documents
        ]

    def delete(self, doc: Any) -> None:
        """Delete a document."""
        _check_not_held(doc.get("_id"))
        cast("Any", super()).delete(doc)

    def put_attachment(
        self, doc: Any, content: Any, filename: str | None = None, content_type: str | None = None
    ) -> None:
        """Attach a file."""
        if not held.is_it(doc["_id"]):
            cast("Any", super()).put_attachment(doc, content, filename, content_type)
            return
        name = filename or os.path.basename(getattr(content, "name", ""))  # noqa: PTH119 - no file of ours
        if not name:
            raise ValueError("an attachment needs a name: filename=")
        data = content.read() if hasattr(content, "read") else content
        kind = content_type or mimetypes.guess_type(name)[0] or "text/plain"
        held.attach(name, data if isinstance(data, bytes) else data.encode(), kind)

    def get_attachment(self, id_or_doc: Any, filename: str, default: Any = None) -> Any:
        """Open an attached file."""
        identifier = id_or_doc if isinstance(id_or_doc, str) else id_or_doc["_id"]
        data = held.attachment(filename) if held.is_it(identifier) else None
        if data is not None:
            return BytesIO(data)
        return cast("Any", super()).get_attachment(identifier, filename, default)

    def delete_attachment(self, doc: Any, filename: str) -> None:
        """Take an attached file away."""
        if held.is_it(doc["_id"]):
            held.detach(filename)
        else:
            cast("Any", super()).delete_attachment(doc, filename)

    def _copy(self) -> Any:
        base = type(self).__mro__[2]
        return getattr(sys.modules[base.__module__], "Document", dict)(held.content())


def _check_not_held(identifier: object) -> None:
    if held.is_it(identifier):
        raise RuntimeError(f"{identifier} cannot be deleted while it is worked: delete it once it is done")


# How a database gets into another process. ----------------------------------------------------------------------------


class Place(NamedTuple):
    """Where a `couchdb.Database` is, and who we are to it."""

    url: str
    name: str
    credentials: tuple[str, str] | None
    verifies_tls: bool

    def __repr__(self) -> str:
        return f"<Place {self.name!r}>"


def place_of(database: Any) -> Place:
    """Where a `couchdb.Database` is."""
    resource = database.resource
    verifies = not getattr(resource.session, "_disable_ssl_verification", False)
    return Place(resource.url, database.name, resource.credentials, verifies)


def make_sendable(client: Any) -> None:
    """Have a PiCaS client, and its database, come out of a pickle guarded.

    Args:
        client: a `picas.clients.CouchDB`, or what looks like one: its `db` is a `couchdb.Database`.
    """
    copyreg.pickle(type(client), _sent_client)
    copyreg.pickle(type(client.db), _sent_database)


def _sent_database(database: Any) -> tuple[Any, ...]:
    return guarded_database, (type(database), place_of(database))


def _sent_client(client: Any) -> tuple[Any, ...]:
    return guarded_client, (type(client), vars(client))


def guarded_database(kind: type, place: Place) -> Any:
    """A database with connections of its own. It sends nothing before it is used."""
    database = _guarded_class(kind)(place.url, name=place.name)
    database.resource.credentials = place.credentials
    if not place.verifies_tls:
        database.resource.session.disable_ssl_verification()
    return database


def guarded_client(kind: type, attributes: Mapping[str, Any]) -> Any:
    """A PiCaS client whose database is guarded, and stays so when it connects anew."""
    client: Any = object.__new__(_client_class(kind))
    vars(client).update(attributes)
    return client


@cache
def _guarded_class(kind: type) -> type:
    return type(kind.__name__, (GuardedDatabase, kind), {"__module__": __name__})


@cache
def _client_class(kind: type) -> type:
    def copied(self: Any) -> Any:
        """Connect anew."""
        fresh = guarded_database(type(self.db).__mro__[2], place_of(self.db))
        return guarded_client(kind, {**vars(self), "db": fresh})

    return type(kind.__name__, (kind,), {"copy": copied, "__module__": __name__})
