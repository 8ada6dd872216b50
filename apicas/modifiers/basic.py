"""The changes of a token that is a document of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping
from typing import Any, Final

from apicas._javascript import parse_int
from apicas.modifiers.claims import CLAIM_FIELDS, JOB_ID_FIELDS, NOTE_FIELDS, Claim, Owner
from apicas.modifiers.protocol import M
from apicas.tokens import (
    ERROR_MARK,
    MAX_ERRORS,
    MAX_HISTORY,
    Change,
    TokenState,
    annex,
    claim_of,
    count,
    generation_of,
    is_suspect,
    next_states,
    state_of,
)

# As long as a host name can be. The history is not to grow with what somebody else wrote into the field.
_MAX_HOSTNAME: Final = 255


class BasicTokenModifier:
    """The changes of a token that is a document of its own.

    All methods change the mapping that they are given and return it. Times are unix seconds. `now` may be left out
    once the modifier belongs to an iterator.

    Args:
        timeout: unused; PiCaS passes one. The lease is the iterator's `lock_timeout`.
    """

    def __init__(self, timeout: float | None = None) -> None:
        self.timeout = timeout
        self._hostname = ""
        self._now: Callable[[], float] | None = None

    def bind(self, owner: Owner, now: Callable[[], float]) -> None:
        """Use this owner's host name, and this clock (unix seconds), where a call names none."""
        self._hostname = owner.hostname
        self._now = now

    def lock(self, token: M, claim: Claim) -> M:
        """Claim the token: todo -> locked, with a claim id of its own and the next generation.

        Raises:
            TransitionError: the token is not in todo.
        """
        self._allow(Change.LOCK, token)
        now = int(claim.now)
        self._heal(token)
        self._remove_job_ids(token)
        owner = claim.owner
        token.update(owner.job_ids)
        # What the attempt before left: an exit code would otherwise decide how this one ends.
        token.update(lock=now, done=0, hostname=owner.hostname, exit_code="")
        entries = dict(annex(token))
        for name in _OF_EARLIER_ATTEMPTS:
            entries.pop(name, None)
        entries.update(
            claim=claim.claim_id,
            pilot=owner.pilot,
            process=owner.process,
            lease=claim.lease,
            lock=now,
            generation=generation_of(token) + 1,
        )
        if claim.isolated:
            entries["isolated"] = True
        token["apicas"] = entries
        return token

    def refresh(self, token: M, now: float) -> M:
        """Set the lock to now: the heartbeat.

        Raises:
            TransitionError: the token is not locked.
        """
        self._allow(Change.REFRESH, token)
        before = annex(token)
        token["lock"] = int(now)
        # Most tokens end before their first beat: that the claim was when the lock says is not written twice.
        self._annex(token, lock=int(now), claimed=before.get("claimed", before.get("lock")))
        return token

    def unlock(self, token: M) -> M:
        """Take the lock off, as PiCaS does: nothing is counted, and the claim ends.

        Raises:
            TransitionError: the token has ended.
        """
        self._allow(Change.UNLOCK, token)
        self._back_to_todo(token)
        return token

    def close(self, token: M, now: float | None = None) -> M:
        """End the token. It is done where its exit code is 0, which it becomes where none was set, else in error.

        Raises:
            TransitionError: the token is not locked.
        """
        if self._allow(Change.CLOSE, token) is TokenState.LOCKED:  # else it has ended before, and stays as it is
            token["done"] = int(self._time(now))
            token["exit_code"] = 0 if _is_unset(token.get("exit_code")) else _exit_code(token["exit_code"])
        # While it was worked the lock moved with the heartbeat; at the end `done - lock` is the duration again.
        before = annex(token)
        claimed = count(before.get("claimed"))
        if claimed and token.get("lock") == before.get("lock"):
            token["lock"] = claimed
        self._end_claim(token, taken=None)
        return token

    def unclose(self, token: M) -> M:
        """Take the end off: the token is locked again.

        Raises:
            TransitionError: the token is in todo.
        """
        self._allow(Change.UNCLOSE, token)
        token["done"] = 0
        self._remove_job_ids(token)
        return token

    def add_output(self, token: M, output: Mapping[str, Any]) -> M:
        """Put fields into the token."""
        self._allow(Change.ADD_OUTPUT, token)
        token.update(output)
        return token

    def scrub(self, token: M, now: float | None = None, *, not_before: float = 0.0) -> M:
        """Send the token back to todo because its work failed, and count it in `scrub_count`.

        Args:
            token: the token.
            now: when, for the history.
            not_before: unix seconds before which no pilot claims it.

        Raises:
            TransitionError: the token is in todo.
        """
        self._allow(Change.SCRUB, token)
        time = self._time(now)
        token["scrub_count"] = count(token.get("scrub_count")) + 1
        self._back_to_todo(token, not_before=not_before or None)
        self._remember(token, "scrubbed", time)
        return token

    def set_error(
        self, token: M, message: str | None = None, exception: str | None = None, now: float | None = None
    ) -> M:
        """End the token in error, with the reason in its `error` list.

        PiCaS marks such a token with 99 in lock and done, and its tools look for that. A zero exit code becomes 1, or
        the token would show as done.

        Raises:
            TransitionError: the token is in no Monitor view.
        """
        self._allow(Change.SET_ERROR, token)
        if message is not None or exception is not None:
            self.add_error(token, message, exception, now)
        exit_code = _exit_code(token.get("exit_code"))
        token["exit_code"] = 1 if parse_int(exit_code) == 0 else exit_code
        token.update(lock=ERROR_MARK, done=ERROR_MARK)
        self._end_claim(token)
        return token

    def add_error(
        self, token: M, message: str | None = None, exception: str | None = None, now: float | None = None
    ) -> M:
        """Put a reason into the token's `error` list without ending it. Only the last MAX_ERRORS are kept."""
        entry: dict[str, Any] = {"time": int(self._time(now))}
        if message is not None:
            entry["message"] = message
        if exception is not None:
            entry["exception"] = exception
        errors = token.get("error")
        token["error"] = [*(errors if isinstance(errors, list) else []), entry][-MAX_ERRORS:]
        return token

    def release(self, token: M, now: float | None = None, *, not_before: float = 0.0) -> M:
        """Send the token back to todo unfinished, without charging it: shutdown, hand-back.

        Raises:
            TransitionError: the token is in todo.
        """
        self._allow(Change.RELEASE, token)
        time = self._time(now)
        self._back_to_todo(token, not_before=not_before or None)
        self._annex(token, releases=count(annex(token).get("releases")) + 1)
        self._remember(token, "released", time)
        return token

    def crash(self, token: M, now: float | None = None, *, not_before: float = 0.0) -> M:
        """Send the token back to todo because the process that it had to itself died, and count it in `crashes`.

        Args:
            token: the token.
            now: when, for the history.
            not_before: unix seconds before which no pilot claims it.

        Raises:
            TransitionError: the token is not locked.
        """
        self._allow(Change.CRASH, token)
        time = self._time(now)
        crashes = count(annex(token).get("crashes")) + 1
        self._back_to_todo(token, not_before=not_before or None)
        self._annex(token, crashes=crashes, suspect=True)
        self._remember(token, "crashed", time)
        return token

    def reclaim(self, token: M, now: float, *, charge: bool = True, not_before: float = 0.0) -> M:
        """Take the token from a silent owner: back to todo.

        A pilot that vanishes takes all its tokens with it, and nobody knows which of them was to blame. So the first
        time they become suspects, which run in a process of their own. A suspect is charged with a crash, unless its
        pilot had such a process for it: then its pilot vanished for another reason, which is counted in `vanished`.

        Args:
            token: the token.
            now: unix seconds, for the history.
            charge: whether the silence may be the token's fault; not where its owner never knew that it owned it.
            not_before: unix seconds before which no pilot claims it.

        Raises:
            TransitionError: the token is not locked.
        """
        self._allow(Change.RECLAIM, token)
        self._remember(token, "reclaimed", now)
        claim, suspect, log = claim_of(token), is_suspect(token), annex(token).get("log")
        if isinstance(log, Mapping):  # the only trace of what it was at
            log = {**log, "host": token.get("hostname")}
        counter = "vanished" if annex(token).get("isolated") is True else "crashes"
        charged = {counter: count(annex(token).get(counter)) + 1} if suspect and charge else {}
        self._back_to_todo(token, not_before=not_before or None)
        # Not settled by its owner: an owner that looks for its own lost write must not take this one for it. But its
        # late result is welcome until somebody else claims the token.
        self._annex(
            token,
            **charged,
            suspect=suspect or charge or None,
            settled=None,
            taken=claim,
            log=log,
        )
        return token

    def reset(self, token: M, now: float | None = None) -> M:
        """Put the token back to todo as if it were new: counters at zero, logs and errors kept.

        A reset is a person's decision to start again, so what failed before is not held against the token.

        Raises:
            TransitionError: the token is in no Monitor view.
        """
        has_ended = self._allow(Change.RESET, token) in {TokenState.DONE, TokenState.ERROR}
        time = self._time(now)
        self._back_to_todo(token)
        token.update(scrub_count=0, hostname="")
        if has_ended and annex(token):
            # What a cluster stored on another branch is older than this wish, also an outcome; see heal_order.
            self._annex(token, reset=generation_of(token))
        self._annex(
            token,
            crashes=None,
            releases=None,
            vanished=None,
            suspect=None,
            not_before=None,
            settled=None,
            usage=None,
            log=None,
        )
        self._remember(token, "reset", time)
        return token

    def _allow(self, change: Change, token: MutableMapping[str, Any]) -> TokenState:
        """Refuse a change that is no transition; answers with the state that the token is in."""
        state = self._state(token)
        next_states(change, state)
        return state

    @staticmethod
    def _state(token: MutableMapping[str, Any]) -> TokenState:
        return state_of(token)

    def _time(self, now: float | None) -> float:
        if now is not None:
            return now
        if self._now is None:
            raise TypeError("this modifier belongs to no iterator yet, and has no clock: pass now=<unix seconds>")
        return self._now()

    def _back_to_todo(self, token: MutableMapping[str, Any], not_before: float | None = None) -> None:
        token.update(lock=0, done=0, exit_code="")
        if self._hostname:
            token["hostname"] = self._hostname
        self._remove_job_ids(token)
        self._heal(token)
        # A generation of its own: should a cluster have stored another version beside this one, a lock without an
        # owner for instance, then this one is the later.
        generation = generation_of(token) + 1 if annex(token) else None
        self._end_claim(token, not_before=not_before, taken=None, generation=generation)

    @staticmethod
    def _remove_job_ids(token: MutableMapping[str, Any]) -> None:
        for name in JOB_ID_FIELDS:
            if name in token:
                del token[name]

    @staticmethod
    def _heal(token: MutableMapping[str, Any]) -> None:
        """Write fields of an odd type back as they should be. PiCaS fails on a token without scrub_count."""
        token["scrub_count"] = count(token.get("scrub_count"))
        if not isinstance(token.get("error"), list):
            token["error"] = []

    def _end_claim(self, token: MutableMapping[str, Any], **also: Any) -> None:
        # The id of the claim that wrote the outcome stays, so that a write whose answer got lost can be recognised;
        # also when the user's own close ended the claim, and the pilot then sends the token back.
        changes: dict[str, Any] = dict.fromkeys(_OF_CLAIMS)
        claim = annex(token).get("claim")
        if isinstance(claim, str):
            changes["settled"] = claim
        noted(token, **{**changes, **also})

    @staticmethod
    def _annex(token: MutableMapping[str, Any], **changes: Any) -> None:
        """Change the sub-object: a copy of it, so that no other holder of the old one sees half a change."""
        noted(token, **changes)

    def _remember(self, token: MutableMapping[str, Any], event: str, now: float) -> None:
        hostname = token.get("hostname")
        shown = hostname[:_MAX_HOSTNAME] if isinstance(hostname, str) else ""
        entry = {"event": event, "time": int(now), "hostname": shown}
        history = annex(token).get("history")
        entries = [*(history if isinstance(history, list) else []), entry]
        self._annex(token, history=entries[-MAX_HISTORY:])


_OF_CLAIMS: Final = (*CLAIM_FIELDS, *NOTE_FIELDS)
_OF_EARLIER_ATTEMPTS: Final = ("claimed", "isolated", "not_before", "taken", "usage", "workdir", *NOTE_FIELDS)


def noted(token: M, **notes: Any) -> M:
    """Write into the `apicas` sub-object what is known of an attempt. No change of state; None takes an entry out."""
    entries = dict(annex(token))
    for name, value in notes.items():
        if value is None:
            entries.pop(name, None)
        else:
            entries[name] = value
    if entries or "apicas" in token:
        token["apicas"] = entries
    return token


def _is_unset(exit_code: Any) -> bool:
    return exit_code is None or exit_code == ""


def _exit_code(value: Any) -> int | float | str:
    """An exit code as it is kept: a number or a text, also one that other tools wrote; 1 for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)) or value == "":
        return 1
    return value
