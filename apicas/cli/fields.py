"""Fields of tokens by name: those that they have, as `input.x`, and those that are worked out: `state`, `age`."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from apicas._documents import Document, Unstorable, decode, encode
from apicas._javascript import to_number
from apicas.cli.parameters import seconds
from apicas.exceptions import ConfigError, InvalidTokenError
from apicas.modifiers import JOB_ID_FIELDS
from apicas.tokens import FIRST_LOCK_TIME, Token, TokenState, annex, attempt_of, count, is_foreign_lock, state_of
from apicas.views import Comparison

LAST_TIME: Final = 1 << 37
"""Unix seconds that no calendar goes beyond."""

_INDEX: Final = re.compile(r"-?\d{1,9}", re.ASCII)
_CONDITION: Final = re.compile(r"(.+?)\s*(!=|<=|>=|==|=|<|>|~)\s*(.*)", re.DOTALL)
BOOKKEEPING: Final = frozenset(
    {"_id", "_rev", "_attachments", "_conflicts", "type", "lock", "done", "exit_code", "hostname", "scrub_count"}
    | {"error", "apicas", *JOB_ID_FIELDS}
)
"""What a token is kept by. All other fields are what it is about."""
TIMES: Final = ("age", "beat")
"""Those that are worked out in seconds."""


class _Nothing:
    """What a token has not."""

    def __repr__(self) -> str:
        return "NOTHING"


NOTHING: Final = _Nothing()


def value_at(value: Any, name: str) -> Any:
    """A value inside a value: `input.x`, `error.-1.message`; NOTHING where there is none.

    Args:
        value: a mapping or a list.
        name: keys and numbers, with dots between them; a key that has dots itself is found as well.
    """
    if isinstance(value, Mapping) and name in value:
        return value[name]
    first, dot, rest = name.partition(".")
    inner: Any = NOTHING
    if isinstance(value, Mapping):
        inner = value.get(first, NOTHING) if dot else NOTHING
    elif isinstance(value, list) and _INDEX.fullmatch(first):
        with suppress(IndexError):
            inner = value[int(first)]
    return value_at(inner, rest) if dot and inner is not NOTHING else inner


def time_of(value: Any) -> int | None:
    """Unix seconds; None for what is no time, as the marks that PiCaS sets."""
    return count(value) if FIRST_LOCK_TIME <= count(value) < LAST_TIME else None


def since(document: Mapping[str, Any]) -> int | None:
    """Since when a token is in its state, in unix seconds; None where nobody knows, as for one that is new."""
    match state_of(document):
        case TokenState.LOCKED:
            claimed = None if is_foreign_lock(document) else time_of(annex(document).get("claimed"))
            return claimed or time_of(document.get("lock"))
        case TokenState.DONE | TokenState.ERROR:
            return time_of(document.get("done")) or _last_time(document.get("error"))
        case TokenState.TODO:
            return _last_time(annex(document).get("history"))
        case _:
            return None


def _last_time(entries: Any) -> int | None:
    for entry in reversed(entries if isinstance(entries, list) else []):
        if isinstance(entry, Mapping) and (moment := time_of(entry.get("time"))):
            return moment
    return None


def _age(document: Document, now: float) -> Any:
    began = since(document)
    return NOTHING if began is None else max(0, int(now - began))


def _beat(document: Document, now: float) -> Any:
    lock = to_number(document.get("lock"))
    if state_of(document) is not TokenState.LOCKED or is_foreign_lock(document) or lock < FIRST_LOCK_TIME:
        return NOTHING
    return max(0, int(now - lock))


def _reason(document: Document, _now: float) -> Any:
    errors = Token(document).errors
    message = errors[-1].get("message") if errors else None
    return message if isinstance(message, str) else NOTHING


def _attachments(document: Document, _now: float) -> int:
    return len(Token(document).attachments)


WORKED_OUT: Final[Mapping[str, Callable[[Document, float], Any]]] = {
    "id": lambda document, _now: document["_id"],
    "state": lambda document, _now: str(state_of(document)),
    "age": _age,
    "beat": _beat,
    "attempt": lambda document, _now: attempt_of(document),
    "attachments": _attachments,
    "reason": _reason,
}
"""Fields that no token has as such, by name: from the document, and the store's time in unix seconds."""


def field_of(document: Document, name: str, now: float) -> Any:
    """A field of a token, or what is worked out of it; NOTHING where it has none.

    Args:
        document: the token.
        name: as `value_at` takes it; with a dot in front it is never one that is worked out.
        now: store time, unix seconds.
    """
    worked_out = WORKED_OUT.get(name)
    return value_at(document, name.removeprefix(".")) if worked_out is None else worked_out(document, now)


def has_field(document: Document, name: str) -> bool:
    """Whether a token has a field of its own of this name."""
    return value_at(document, name.removeprefix(".")) is not NOTHING


@dataclass(frozen=True, slots=True)
class Where:
    """One condition on a field: `input.cores>=4`, `reason~memory`, `age>2h`, `output=null`.

    Args:
        name: the field, as `field_of` takes it.
        operator: `=`, `!=`, `<`, `<=`, `>`, `>=`, `~` for "holds this text", or `null` and `!null`.
        alternatives: comparisons of a field `value`, of which one must hold; with `!=` all.
        text: what `~` looks for.
    """

    name: str
    operator: str
    alternatives: tuple[Comparison, ...] = ()
    text: str = ""

    def matches(self, document: Document, now: float) -> bool:
        """Whether a token fulfils the condition. A field that it has not fulfils none but `=null`."""
        value = field_of(document, self.name, now)
        is_null = value is NOTHING or value is None
        match self.operator:
            case "null":
                return is_null
            case "!null":
                return not is_null
            case "~":
                return isinstance(value, str) and self.text in value
        found = [comparison.matches({"value": value}) for comparison in self.alternatives if not is_null]
        if self.operator == "!=":  # a number differs from every text, which a comparison of like with like does not say
            return not is_null and not any(found)
        return any(found)


def where(text: str) -> Where:
    """Read a condition as people write it.

    `5` means the number and the text, `"5"` the text alone.

    Raises:
        ConfigError: it is none.
    """
    found = _CONDITION.fullmatch(text)
    if found is None:
        raise ConfigError(f"--where {text!r}: write FIELD=VALUE, or with one of != < <= > >= ~ in the place of =")
    name, operator, raw = found[1].strip(), "=" if found[2] == "==" else found[2], found[3]
    if operator == "~":
        return Where(name, "~", text=raw)
    if name in TIMES and raw != "null":
        raw = f"{seconds(raw, f'--where {name}'):.0f}"
    values = list(_meanings(raw))
    if values == [None]:
        if operator not in {"=", "!="}:
            raise ConfigError(f"--where {text!r}: null is neither less nor more than anything")
        return Where(name, "null" if operator == "=" else "!null")
    if operator in {"=", "!="}:
        return Where(name, operator, tuple(Comparison(("value",), "==", value) for value in values))
    return Where(name, operator, (Comparison(("value",), operator, values[0]),))


def _meanings(raw: str) -> Iterator[Any]:
    """What a value can mean: JSON where it is JSON, and the text as it stands unless it is quoted."""
    value = json_or_text(raw)
    if isinstance(value, (dict, list)):
        raise ConfigError(f"a field is compared with text, a number, true, false or null, not with {raw!r}")
    yield value
    if value is not None and not isinstance(value, str):
        yield raw


def json_or_text(raw: str) -> Any:
    """The value of JSON, and the text itself of what is none, or none that can be kept."""
    try:
        value = decode(raw)
    except InvalidTokenError:
        return raw
    if isinstance(value, Unstorable) or (isinstance(value, (int, float)) and not math.isfinite(to_number(value))):
        return raw
    return value


def assignment(text: str, option: str = "--set") -> tuple[str, Any]:
    """The field and the value of `FIELD=VALUE`; the value is JSON or text.

    Raises:
        ConfigError: it is none.
    """
    name, equals, raw = text.partition("=")
    if not equals or not name:
        raise ConfigError(f"{option} {text!r}: write FIELD=VALUE")
    return name.removeprefix("."), json_or_text(raw)


def with_value(value: Any, name: str, new: Any) -> Any:
    """A copy of a value in which another one stands at `name`; NOTHING there takes it out.

    Raises:
        ConfigError: on the way there is something that has no fields.
    """
    if not isinstance(value, (dict, list)):
        raise ConfigError(f"there is no field {name!r} in {encode(value).decode()[:80]}")
    first, dot, rest = name.partition(".")
    if isinstance(value, list):
        return _with_item(value, name, new)
    if name in value or not dot:
        changed = dict(value)
        if new is NOTHING:
            changed.pop(name, None)
        else:
            changed[name] = new
        return changed
    if first not in value and new is NOTHING:
        return value
    return {**value, first: with_value(value.get(first, {}), rest, new)}


def _with_item(value: Sequence[Any], name: str, new: Any) -> list[Any]:
    first, dot, rest = name.partition(".")
    changed = list(value)
    try:
        index = int(first) if _INDEX.fullmatch(first) else len(changed)
        changed[index] = with_value(changed[index], rest, new) if dot else new
        if not dot and new is NOTHING:
            del changed[index]
    except IndexError:
        raise ConfigError(f"there is no item {first!r} in a list of {len(changed)}") from None
    return changed


def cell(value: Any, widest: int) -> str:
    """A value as a cell of a table shows it: text as it is, everything else as JSON."""
    if value is NOTHING or value is None:
        return ""
    text = value if isinstance(value, str) else _json(value)
    return text if len(text) <= widest else f"{text[: widest - 3]}..."


def _json(value: Any) -> str:
    try:
        return encode(value).decode()
    except InvalidTokenError as error:  # what another tool stored, and Python cannot hold
        return f"<{error}>"


def ago(passed: float) -> str:
    """Seconds as people say them: `45s`, `12m`, `3.2h`, `4.1d`."""
    if passed < 100:
        return f"{passed:.0f}s"
    if passed < 6000:
        return f"{passed / 60:.0f}m"
    return f"{passed / 3600:.1f}h" if passed < 100 * 3600 else f"{passed / 86400:.1f}d"
