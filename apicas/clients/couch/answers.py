"""What CouchDB's answers mean. Plain functions of bytes and decoded JSON; nothing here sends anything."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from apicas._documents import Document, decode
from apicas.clients.bulks import EncodedDocument
from apicas.clients.port import MISSING as NOT_GIVEN
from apicas.clients.port import SaveResult, SaveStatus, StoredChange, ViewQuery, ViewRow
from apicas.exceptions import InvalidTokenError, PoolUnavailableError

# CouchDB 2 and later, and CouchDB 1 with those that speak like it.
_NO_DATABASE: Final = frozenset({"Database does not exist.", "no_db_file"})
# Words of a row's error that do not say whether a replica has the document.
_UNCERTAIN: Final = frozenset(
    {"unknown_error", "internal_server_error", "internal_error", "error", "unknown", "timeout", "nodedown"}
)
# Words with which a whole request is refused for what is in one document, whatever the status: PouchDB's is 500.
MISSING_STUB: Final = "missing_stub"
DOCUMENT_ERRORS: Final = frozenset({"doc_validation", "bad_request", MISSING_STUB, "missing_id", "illegal_docid"})
# Refusals after which a further request with the same credentials brings the account nearer to being locked.
_BAD_CREDENTIALS: Final = ("incorrect", "temporarily locked")


def error_of(body: bytes) -> tuple[str, str]:
    """CouchDB's word for an error, and its reason; two empty strings for a body that is not CouchDB's."""
    try:
        answer = decode(body)
    except InvalidTokenError:
        return "", ""
    if not isinstance(answer, Mapping):
        return "", ""
    return str(answer.get("error") or ""), _one_line(answer.get("reason"))


def reason_of(status: int, body: bytes) -> str:
    """Why, in one line for people."""
    word, reason = error_of(body)
    return f"{status} {': '.join(part for part in (word, reason) if part)}".strip()


def is_no_database(reason: str) -> bool:
    """Whether the reason of a 404 is that the database does not exist."""
    return reason in _NO_DATABASE


def are_bad_credentials(reason: str) -> bool:
    """Whether the reason of a 401 or 403 is the credentials, and not a permission that they lack."""
    return any(word in reason.lower() for word in _BAD_CREDENTIALS)


def bulk_body(batch: Sequence[EncodedDocument]) -> bytes:
    """The body of a bulk write, from documents that are encoded already."""
    return b'{"docs":[' + b",".join([encoded.body for encoded in batch]) + b"]}"


def has_stubs(document: Mapping[str, Any]) -> bool:
    """Whether a document refers to attachments that are stored already."""
    attachments = document.get("_attachments") or {}
    return any(attachment.get("stub") for attachment in attachments.values())


def unknown(count: int, reason: str) -> list[SaveResult]:
    """The results of a request of which nobody knows what became."""
    return [SaveResult(SaveStatus.UNKNOWN, reason=reason)] * count


def bulk_results(
    batch: Sequence[EncodedDocument], status: int, rows: Any, *, repeated: bool = False
) -> list[SaveResult]:
    """What became of each document of a bulk.

    Args:
        batch: what was sent; the rows come in the same order.
        status: 201, 202 where a row was taken by a minority of the replicas only, 500 where one was taken by none.
        rows: the decoded answer.
        repeated: whether an attempt before this one failed and may have written. A conflict may then be with our own
            write, so it is unknown.
    """
    if not isinstance(rows, list) or [_row_id(row) for row in rows] != [encoded.id for encoded in batch]:
        return unknown(len(batch), f"{status} with rows that are not those of the request")
    # An answer of 202 that marks no row leaves open which one it is about.
    unmarked = status == 202 and not any(row.get("accepted") for row in rows)
    return [_row_result(row, doubtful=unmarked, repeated=repeated) for row in rows]


def _row_id(row: Any) -> Any:
    return row.get("id") if isinstance(row, Mapping) else None


def _row_result(row: Mapping[str, Any], *, doubtful: bool, repeated: bool) -> SaveResult:
    if row.get("ok") and isinstance(row.get("rev"), str):
        if doubtful or row.get("accepted"):
            return SaveResult(SaveStatus.UNKNOWN, reason="accepted by a minority of the replicas")
        return SaveResult(SaveStatus.WRITTEN, row["rev"])
    word, reason = str(row.get("error")), _one_line(row.get("reason"))
    if word == "conflict":
        return SaveResult(SaveStatus.UNKNOWN if repeated else SaveStatus.CONFLICT, reason=reason)
    status = SaveStatus.UNKNOWN if word in _UNCERTAIN else SaveStatus.REJECTED
    return SaveResult(status, reason=f"{word}: {reason}" if reason else word)


def bodies(results: Iterable[Mapping[str, Any]]) -> dict[str, Document]:
    """The documents of a `_bulk_get` by id; one that does not exist, or is deleted, is left out.

    Raises:
        PoolUnavailableError: a document could not be read. That is not the same as not being there.
    """
    return {result["id"]: document for result in results if (document := winner(result.get("docs") or ())) is not None}


def winner(leaves: Iterable[Mapping[str, Any]]) -> Document | None:
    """The leaf that CouchDB shows when no revision is named, with the revisions of other live ones in `_conflicts`.

    Raises:
        PoolUnavailableError: a leaf could not be read.
    """
    live = live_leaves(leaves)
    if len(live) < 2:
        return live[0] if live else None
    return {**live[0], "_conflicts": [leaf["_rev"] for leaf in live[1:]]}


def live_leaves(leaves: Iterable[Mapping[str, Any]]) -> list[Document]:
    """The leaves that are not deleted, the shown one first: of the longest history, then with the last digest.

    Raises:
        PoolUnavailableError: a leaf could not be read.
    """
    live: list[Document] = []
    for leaf in leaves:
        document = leaf.get("ok")
        if document is None:
            _check_absent(leaf.get("error"))
        elif not document.get("_deleted"):
            live.append(document)
    return sorted(live, key=revision_order, reverse=True)


def _check_absent(error: Any) -> None:
    if isinstance(error, Mapping) and error.get("error") != "not_found":
        raise PoolUnavailableError(f"{error.get('id')!r} could not be read: {_one_line(error.get('reason'))}")


def revision_order(document: Mapping[str, Any]) -> tuple[int, str]:
    """By what leaves are compared: the length of the history, then the digest."""
    number, _, digest = document["_rev"].partition("-")
    return int(number), digest


def listed_documents(rows: Iterable[Mapping[str, Any]]) -> dict[str, Document]:
    """The documents of an `_all_docs` by id; one that does not exist, or is deleted, is left out."""
    return {row["id"]: row["doc"] for row in rows if row.get("doc") is not None}


def split_ids(rows: Iterable[Mapping[str, Any]]) -> Iterator[tuple[str, bool]]:
    """The ids in a page of the changes feed with all leaves, each with whether there are several, deleted ones too."""
    for row in rows:
        if not row["id"].startswith("_design/"):
            yield row["id"], len(row["changes"]) > 1


def view_parameters(query: ViewQuery) -> dict[str, Any]:
    """A query as the body of a POST to a view. Documents are read separately, which is much cheaper."""
    parameters: dict[str, Any] = {"limit": query.limit} if query.limit is not None else {}
    if query.start_key is not NOT_GIVEN:
        parameters["startkey"] = query.start_key
    if query.end_key is not NOT_GIVEN:
        parameters["endkey"] = query.end_key
    if query.descending:
        parameters["descending"] = True
    if query.reduce is not None:
        parameters["reduce"] = query.reduce
    if query.group:
        parameters["group"] = True
    if query.group_level is not None:
        parameters["group_level"] = query.group_level
    if not query.fresh:
        # Unlike `false`, this has the index brought up to date afterwards, so that the next reader sees more.
        parameters["update"] = "lazy"
    return parameters


def view_rows(rows: Iterable[Mapping[str, Any]]) -> list[ViewRow]:
    """The rows of a view."""
    return [ViewRow(row.get("id"), row.get("key"), row.get("value")) for row in rows]


def change_of(line: bytes) -> StoredChange | None:
    """One line of the changes feed; None for a heartbeat.

    Raises:
        PoolUnavailableError: the feed ended, or failed.
    """
    if not line.strip():
        return None
    try:
        entry = decode(line)
    except InvalidTokenError as error:
        raise PoolUnavailableError("the changes feed broke off") from error
    if "id" not in entry:
        raise PoolUnavailableError(f"the changes feed ended {_one_line(entry.get('reason'))}".strip())
    return StoredChange(str(entry["seq"]), entry["id"], entry["changes"][0]["rev"], bool(entry.get("deleted")))


def _one_line(text: Any) -> str:
    return " ".join(str(text).split())[:300] if text else ""
