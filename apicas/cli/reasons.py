"""Why a token does not run, in words: from its document, and what there is here. No store is asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from apicas._documents import shown
from apicas._javascript import to_number
from apicas._node.admission import Horizon
from apicas._node.inventory import Inventory
from apicas._node.requests import Refused, Request, RequestFields
from apicas._runtime.survey import at_time, in_hours
from apicas.modifiers import JOB_ID_FIELDS
from apicas.policies.leases import lease_of
from apicas.tokens import (
    FIRST_LOCK_TIME,
    TYPES,
    Token,
    TokenState,
    annex,
    is_foreign_lock,
    is_suspect,
    not_before,
    state_of,
)

_OPEN: Final = frozenset({TokenState.TODO, TokenState.LOCKED})
"""States from which a token is still to be worked."""
MAX_TEXT: Final = 500
"""Characters of an error message of a token's: the first line is what people look for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Here:
    """What a token is judged by.

    Args:
        now: store time, unix seconds.
        default_lease: seconds, for a claim that carries none.
        owner_is_gone: whether a document's claim is of a process that is known to be gone.
        inventory: what there is of this node.
        fields: where tokens say what they ask.
        horizon: when the batch job ends, in seconds from now on.
    """

    now: float
    default_lease: float
    owner_is_gone: Callable[[Mapping[str, Any]], bool]
    inventory: Inventory
    fields: RequestFields
    horizon: Horizon


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """What there is to say of a token.

    Args:
        token_id: names it.
        state: the state.
        facts: what is worth to know, and keeps nobody from claiming it.
        reasons: why no pilot here claims it.
        asks: how much of what; None where that cannot be understood.
        seconds: how long it says that it takes; None where it does not.
    """

    token_id: str
    state: str
    facts: tuple[str, ...]
    reasons: tuple[str, ...]
    asks: dict[str, int] | None
    seconds: float | None

    @property
    def is_claimable(self) -> bool:
        """Whether a pilot here would claim it."""
        return not self.reasons


def explained(document: Mapping[str, Any], here: Here) -> Explanation:
    """Explain a token."""
    state, request = state_of(document), here.fields.read(document)
    known = request if isinstance(request, Request) else None
    told: dict[TokenState, tuple[str, ...]] = {
        TokenState.TODO: tuple(_of_todo(document, request, here)),
        TokenState.LOCKED: tuple(_of_locked(document, here)),
        TokenState.DONE: tuple(_of_ended(document, "it is done")),
        TokenState.ERROR: tuple(_of_error(document)),
        TokenState.NO_VIEW: tuple(_of_no_view(document)),
    }
    return Explanation(
        token_id=str(document["_id"]),
        state=str(state),
        facts=(*_facts(document), *_time_facts(state, known, here)) if state in _OPEN else (),
        reasons=(*_of_versions(document), *_of_type(document, state), *told[state]),
        asks=None if known is None else dict(known.amounts),
        seconds=None if known is None else known.seconds,
    )


def _time_facts(state: TokenState, request: Request | None, here: Here) -> Iterator[str]:
    """That a token takes its time, where it is not known how much a pilot has."""
    if state is TokenState.TODO and request is not None and request.seconds and here.horizon.end is None:
        yield f"it takes {in_hours(request.seconds)}: a pilot whose batch job ends sooner leaves it (try --walltime)"


def _facts(document: Mapping[str, Any]) -> Iterator[str]:
    token = Token(dict(document))
    counts = {"failed": token.scrub_count, "was handed back unfinished": token.releases, "crashed": token.crashes}
    for what, number in counts.items():
        if number:
            yield f"it {what} {'once' if number == 1 else f'{number} times'} so far"
    if is_suspect(document):
        yield "a pilot vanished while it held it: it runs in a process of its own, where its work can be sent to one"


def _of_versions(document: Mapping[str, Any]) -> Iterator[str]:
    if document.get("_conflicts"):
        yield "the cluster stores it in several versions: pilots heal that after a lease, and so does `apicas heal`"


def _of_todo(document: Mapping[str, Any], request: Request | Refused, here: Here) -> Iterator[str]:
    later = not_before(document) - here.now
    if later > 0:
        yield f"it waits until {at_time(not_before(document))}, for {in_hours(later)} more, after what became of it"
    if isinstance(request, Refused):
        yield f"what it asks cannot be understood by a pilot with --resources: {request.reason}"
        return
    reason = here.inventory.never_fits(request)
    if reason:
        yield f"a pilot with --resources leaves it to other nodes: {reason}"
    late = here.horizon.too_late(request.seconds, 0.0)
    if late:
        yield f"a pilot in this batch job leaves it to others: {late}"


def _of_locked(document: Mapping[str, Any], here: Here) -> Iterator[str]:
    claim = annex(document)
    lock = to_number(document.get("lock"))
    held = [f"on {_hostname(document)}", *_jobs(document)]
    if is_foreign_lock(document):
        since = f" since {_ago(lock, here.now)}" if lock >= FIRST_LOCK_TIME else ""
        yield f"it is locked {', '.join(held)}{since}, by another tool than apicas"
        yield "such a lock is left alone, but by pilots with --foreign-lock-timeout; `apicas reset locked` takes it off"
        return
    claimed = to_number(claim.get("claimed"))
    began = claimed if claimed >= FIRST_LOCK_TIME else lock
    yield f"it is held {', '.join(held)}, by pilot {shown(claim.get('pilot'))} since {_ago(began, here.now)}"
    yield from _of_lease(document, here, silent=here.now - lock)


def _of_lease(document: Mapping[str, Any], here: Here, *, silent: float) -> Iterator[str]:
    lease = lease_of(document, here.default_lease)
    if here.owner_is_gone(document):
        yield "that pilot's process is gone: the next look of a pilot on this node puts it back to todo"
    elif silent > lease:
        beat = f"its last sign of life was {in_hours(silent)} ago, and the lease is {in_hours(lease)}"
        yield f"{beat}: a running pilot that sees no other puts it back to todo, or `apicas release`"
    else:
        yield f"its last sign of life was {in_hours(silent)} ago: that pilot is at work on it"


def _of_ended(document: Mapping[str, Any], how: str) -> Iterator[str]:
    done = to_number(document.get("done"))
    since = f" since {at_time(done)}" if done >= FIRST_LOCK_TIME else ""
    yield f"{how}{since}, on {_hostname(document)}"


def _of_error(document: Mapping[str, Any]) -> Iterator[str]:
    yield from _of_ended(document, f"it ended with exit code {shown(document.get('exit_code'))}")
    errors = Token(dict(document)).errors
    if errors:
        yield f"the last of its errors: {_brief(errors[-1].get('message'))}"
    yield "`apicas reset error` puts all such tokens back to todo"


def _of_type(document: Mapping[str, Any], state: TokenState) -> Iterator[str]:
    if state is TokenState.TODO and document.get("type") != "token":
        yield "its type is 'task': only pilots on a view that lists such documents claim it; Monitor's views do not"


def _of_no_view(document: Mapping[str, Any]) -> Iterator[str]:
    if document.get("type") not in TYPES:
        yield f"its type is {shown(document.get('type'))}, and not 'token': pilots leave it alone"
        return
    fields = ", ".join(f"{name} {shown(document.get(name))}" for name in ("lock", "done", "exit_code"))
    yield f"these fields mean no state: {fields}; pilots leave it alone"


def _hostname(document: Mapping[str, Any]) -> str:
    return Token(dict(document)).hostname or "a node that is not named"


def _jobs(document: Mapping[str, Any]) -> Iterator[str]:
    for name in JOB_ID_FIELDS:
        if document.get(name):
            yield f"{name.removesuffix('_id').replace('_', ' ')} {shown(document[name])}"


def _ago(then: float, now: float) -> str:
    return f"{at_time(then)}, for {in_hours(now - then)}"


def _brief(message: Any) -> str:
    text = message if isinstance(message, str) else shown(message)
    return text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}..."
