"""Bulks: documents that were checked and encoded, cut into requests that are bounded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from apicas.exceptions import (
    PoolError,
)

MAX_BULK_DOCUMENTS: Final = 1000
"""Where the throughput of CouchDB's bulk writes levels off."""
MAX_BULK_BYTES: Final = 4_000_000
"""Keeps a request to a slow server within its timeout, and the memory of both sides flat."""


class BulkRefusedError(PoolError):
    """The store refused a request as a whole, for something in it; raised by adapters, never seen by users.

    Args:
        reason: for people.
        uncertain: whether some of it may have been written all the same. A conflict in a later attempt may then be
            with our own write.
    """

    def __init__(self, reason: str, *, uncertain: bool = False) -> None:
        super().__init__(reason)
        self.uncertain = uncertain


class EncodedDocument(msgspec.Struct, frozen=True, gc=False):
    """A document that was checked, with its JSON."""

    document: Mapping[str, Any]
    body: bytes

    @property
    def id(self) -> str:
        """The `_id`."""
        identifier: str = self.document["_id"]
        return identifier

    @property
    def rev(self) -> str | None:
        """The revision that it replaces; None for a new document."""
        return self.document.get("_rev")


class NewToken(EncodedDocument, frozen=True, gc=False):
    """A token that is new, in todo and without attachments; of its fields `document` has the id alone."""


def bulks(encoded: list[EncodedDocument]) -> list[list[EncodedDocument]]:
    """Cut a sequence into requests that are bounded in documents and in bytes."""
    bulks: list[list[EncodedDocument]] = []
    start = size = 0
    for index, document in enumerate(encoded):
        length = len(document.body)
        if index > start and (index - start >= MAX_BULK_DOCUMENTS or size + length > MAX_BULK_BYTES):
            bulks.append(encoded[start:index])
            start, size = index, 0
        size += length
    if start < len(encoded):
        bulks.append(encoded[start:])
    return bulks
