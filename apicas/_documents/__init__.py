"""Documents as every store takes them: JSON, encoded once, checked against one set of rules.

Rules:
- One bad document fails a whole CouchDB bulk, so what can be known to be refused is refused here, alone, with a reason.
- The rules are the same for every store: a pool moves from SQLite to CouchDB without surprises.
- NaN and the infinities are no JSON. The encoder writes them as null, so a document with a null in it is looked at.
"""

from __future__ import annotations

from apicas._documents.coding import MAX_DEPTH, Document, Unstorable, decode, encode
from apicas._documents.messages import shown
from apicas._documents.rules import (
    MAX_DOCUMENT_BYTES,
    MAX_INTEGER_DIGITS,
    check_attachment_name,
    check_fields,
    check_id,
    encode_document,
    encode_documents,
    is_plain_body,
    is_plain_id,
)

__all__ = [
    "MAX_DEPTH",
    "MAX_DOCUMENT_BYTES",
    "MAX_INTEGER_DIGITS",
    "Document",
    "Unstorable",
    "check_attachment_name",
    "check_fields",
    "check_id",
    "decode",
    "encode",
    "encode_document",
    "encode_documents",
    "is_plain_body",
    "is_plain_id",
    "shown",
]
