"""A token as `apicas show` shows it to people: what apicas knows of it, then its own fields."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from apicas._documents import Document, encode
from apicas.cli.fields import BOOKKEEPING, ago, cell, since, time_of
from apicas.cli.selection import is_held
from apicas.cli.terminal import MAX_LINE, plural
from apicas.cli.token_status import clock, percent, taken
from apicas.exceptions import InvalidTokenError
from apicas.modifiers import JOB_ID_FIELDS
from apicas.tokens import (
    Token,
    TokenState,
    annex,
    attempt_of,
    claim_of,
    count,
    is_foreign_lock,
    is_suspect,
    not_before,
    state_of,
)

_NAME: Final = 12
"""Characters of the names on the left."""
_DEPTH: Final = 3
"""Levels of a field that are written on lines of their own; deeper ones are JSON."""
_SHORT: Final = 80
"""Characters up to which a field stays on one line."""


def lines_of(document: Document, now: float, default_lease: float, *, tracebacks: bool) -> Iterator[str]:
    """The lines.

    Args:
        document: the token.
        now: store time, unix seconds.
        default_lease: seconds, for a claim that carries none.
        tracebacks: whether errors are shown whole.
    """
    yield str(document["_id"])
    told = [
        ("state", _state(document, now)),
        ("owner", _owner(document, now, default_lease)),
        ("jobs", ", ".join(f"{name} {cell(document[name], 60)}" for name in JOB_ID_FIELDS if document.get(name))),
        ("attempts", _attempts(document)),
        ("waits", _waits(document, now)),
        ("progress", _progress(document)),
        ("took", ", ".join(taken(_mapping(annex(document).get("usage"))))),
        ("files", cell(annex(document).get("workdir"), MAX_LINE)),
        ("revision", _revision(document)),
    ]
    for name, text in told:
        if text:
            yield f"  {name:{_NAME}}{text}"
    yield from _history(document)
    yield from _errors(document, tracebacks=tracebacks)
    yield from _attachments(document)
    yield "  fields"
    own = {name: value for name, value in document.items() if name not in BOOKKEEPING}
    yield from _fields(own, "    ", _DEPTH)


def _state(document: Document, now: float) -> str:
    state, began = state_of(document), since(document)
    words = [str(state)]
    if state is TokenState.ERROR:
        words.append(f"exit code {cell(document.get('exit_code'), 60)}")
    if state is TokenState.NO_VIEW:
        words += [f"{name} {cell(document.get(name), 60) or 'missing'}" for name in ("type", "lock", "done")]
    if began is not None:
        words.append(f"since {clock(began)} ({ago(max(0.0, now - began))})")
    return ", ".join(words)


def _owner(document: Document, now: float, default_lease: float) -> str:
    token, claim = Token(document), annex(document)
    host = f"on {token.hostname}" if token.hostname else ""
    if token.state is not TokenState.LOCKED:
        return f"nobody; the last was {host}" if host else ""
    if claim_of(document) is None or is_foreign_lock(document):
        return f"another tool than apicas {host}".rstrip()
    beat = time_of(document.get("lock"))
    seen = f"last heartbeat {clock(beat)} ({ago(max(0.0, now - beat))})" if beat is not None else ""
    alive = "" if is_held(document, now, default_lease) else "silent for longer than its lease"
    return ", ".join(filter(None, [f"pilot {cell(claim.get('pilot'), 60)} {host}".rstrip(), seen, alive]))


def _attempts(document: Document) -> str:
    token = Token(document)
    counted = {
        "failed": token.scrub_count,
        "crashed": token.crashes,
        "lost with its pilot": count(annex(document).get("vanished")),
        "handed back": token.releases,
    }
    words = [str(attempt_of(document) or "none"), *(f"{number} x {what}" for what, number in counted.items() if number)]
    if is_suspect(document):
        words.append("runs in a process of its own, since a pilot vanished with it")
    return ", ".join(words)


def _waits(document: Document, now: float) -> str:
    later = not_before(document)
    if state_of(document) is not TokenState.TODO or not later > now or time_of(int(later)) is None:
        return ""
    return f"until {clock(later)}, {ago(later - now)} more"


def _progress(document: Document) -> str:
    progress = _mapping(annex(document).get("progress"))
    return f"{percent(progress.get('fraction'))} {progress.get('message', '')}".rstrip() if progress else ""


def _revision(document: Document) -> str:
    others = document.get("_conflicts")
    split = f", and {plural(len(others), 'version')} more, to be healed: `apicas heal`" if others else ""
    return f"{document.get('_rev')}{split}"


def _history(document: Document) -> Iterator[str]:
    entries = annex(document).get("history")
    for number, entry in enumerate(entries if isinstance(entries, list) else []):
        if isinstance(entry, Mapping):
            moment = time_of(entry.get("time"))
            when = "?" if moment is None else clock(moment)
            host = f" on {entry['hostname']}" if entry.get("hostname") else ""
            yield f"  {'' if number else 'history':{_NAME}}{when} {entry.get('event')}{host}"


def _errors(document: Document, *, tracebacks: bool) -> Iterator[str]:
    for number, error in enumerate(Token(document).errors):
        moment = time_of(error.get("time"))
        when = "" if moment is None else f"{clock(moment)} "
        message = cell(error.get("message"), MAX_LINE)
        first, *more = message.splitlines() or [""]
        yield f"  {'' if number else 'errors':{_NAME}}{when}{first}"
        trace = cell(error.get("exception"), MAX_LINE).splitlines() if tracebacks else []
        for line in [*more, *trace]:
            yield f"  {'':{_NAME}}  {line}"


def _attachments(document: Document) -> Iterator[str]:
    files = _mapping(document.get("_attachments"))
    for number, (name, stub) in enumerate(sorted(files.items())):
        about = _mapping(stub)
        size = about.get("length")
        length = f"{size:,} bytes" if isinstance(size, int) else ""
        what = ", ".join(filter(None, [length, cell(about.get("content_type"), 60)]))
        yield f"  {'' if number else 'attached':{_NAME}}{name}  {what}"


def _fields(value: Mapping[str, Any], indent: str, depth: int) -> Iterator[str]:
    """Fields one below the other, those inside a field further to the right."""
    for name, inner in value.items():
        text = _text(inner)
        if isinstance(inner, dict) and inner and depth > 1 and len(text) > _SHORT:
            yield f"{indent}{name}"
            yield from _fields(inner, f"{indent}  ", depth - 1)
        else:
            first, *more = text.splitlines() or [""]
            yield f"{indent}{name:{_NAME - 2}} {first}".rstrip()
            for line in more:
                yield f"{indent}{'':{_NAME - 2}} {line}"


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    try:
        return encode(value).decode()
    except InvalidTokenError as error:  # what another tool stored, and Python cannot hold
        return f"<{error}>"


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
