"""A view: the tokens of one state, and of these the ones that fulfil a condition."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from apicas._documents import shown
from apicas.exceptions import ConfigError
from apicas.tokens import TYPES, TokenState, state_of
from apicas.views.conditions import SQL, Condition

MONITOR: Final = "Monitor"
STATES: Final = (TokenState.TODO, TokenState.LOCKED, TokenState.DONE, TokenState.ERROR)
OVERVIEW: Final = "Monitor/overview_total"
_JAVASCRIPT_STATES: Final[Mapping[TokenState, str]] = {
    TokenState.TODO: "doc.lock == 0 && doc.done == 0",
    TokenState.LOCKED: "doc.lock > 0 && doc.done == 0",
    TokenState.DONE: "doc.lock > 0 && doc.done > 0 && parseInt(doc.exit_code) == 0",
    TokenState.ERROR: "doc.lock > 0 && doc.done > 0 && parseInt(doc.exit_code) != 0",
}


def full_name(name: str) -> str:
    """A view's name with its design document: `todo` is `Monitor/todo`.

    Raises:
        ConfigError: the name has more than one slash, or nothing on one side of it.
    """
    parts = name.split("/") if "/" in name else [MONITOR, name]
    if len(parts) != 2 or not all(parts) or parts[0].startswith("_"):
        raise ConfigError(f"{name!r} is no view's name: write todo, or Design/view")
    return "/".join(parts)


class View(msgspec.Struct, frozen=True):
    """A view that lists the tokens of one state, and of these only the ones that fulfil a condition.

    Args:
        name: `Design/view`; a name without a design document belongs to Monitor.
        state: the state whose tokens it lists.
        where: a further condition.
        type: what stands in the tokens' `type`: `task` for those that PiCaS made of a Task without saying a type. Not
            on SQLite.
    """

    name: str
    state: TokenState
    where: Condition | None = None
    type: str = "token"

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "name", full_name(self.name))
        if self.type not in TYPES:
            raise ConfigError(f"a view lists documents of type {' or '.join(TYPES)}, not {shown(self.type)}")
        if self.state not in STATES:
            raise ConfigError(f"a view lists todo, locked, done or error tokens, not those in {self.state}")
        msgspec.structs.force_setattr(self, "state", TokenState(self.state))  # a text says it as well
        if self.design == MONITOR and (
            self.name != f"{MONITOR}/{self.state}" or self.where is not None or self.type != "token"
        ):
            raise ConfigError(f"{self.name}: the views of Monitor are fixed; name a design document of your own")

    @property
    def design(self) -> str:
        """The name of the design document."""
        return self.name.split("/", 1)[0]

    def matches(self, document: Mapping[str, Any]) -> bool:
        """Whether the view lists this document."""
        if document.get("type") != self.type:
            return False
        return state_of(document) is self.state and (self.where is None or self.where.matches(document))

    def map_function(self) -> str:
        """The view as a CouchDB map function; it emits the id as key and as value, like PiCaS's."""
        branch = self._branch("emit(doc._id, doc._id);")
        return f'function (doc) {{\n  if (doc.type === "{self.type}") {{\n{branch}  }}\n}}'

    def _branch(self, action: str) -> str:
        condition = _JAVASCRIPT_STATES[self.state]
        if self.where is not None:
            condition += f" && ({self.where.javascript()})"
        return f"    if ({condition}) {{\n      {action}\n    }}\n"

    def sql(self, state: str = "state", body: str = "body") -> SQL:
        """The view as a condition over two columns, the state and the document's JSON, with its parameters."""
        parameters: list[Any] = [str(self.state)]
        if self.where is None:
            return f"{state} = ?", parameters
        text, more = self.where.sql(body)
        return f"{state} = ? AND {text}", parameters + more


MONITOR_VIEWS: Final[Mapping[str, View]] = {f"{MONITOR}/{state}": View(str(state), state) for state in STATES}


def overview_map_function() -> str:
    """The map function of overview_total: a 1 under the state's name, for the built-in reduce `_sum`."""
    branches = "".join(view._branch(f"emit('{view.state}', 1);") for view in MONITOR_VIEWS.values())  # noqa: SLF001 - same module
    return f'function (doc) {{\n  if (doc.type === "token") {{\n{branches}  }}\n}}'


def design_document(views: Sequence[View], *, overview: bool = False) -> dict[str, Any]:
    """The CouchDB design document that holds these views, which must share their design name.

    Args:
        views: at least one.
        overview: add PiCaS's overview_total.
    """
    entries: dict[str, Any] = {view.name.split("/", 1)[1]: {"map": view.map_function()} for view in views}
    if overview:
        entries["overview_total"] = {"map": overview_map_function(), "reduce": "_sum"}
    return {"_id": f"_design/{views[0].design}", "language": "javascript", "views": entries}


def monitor_design() -> dict[str, Any]:
    """The design document Monitor."""
    return design_document(list(MONITOR_VIEWS.values()), overview=True)
