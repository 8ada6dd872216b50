"""Views: named predicates over tokens, each defined once.

From one definition come the CouchDB map function, the SQL condition and the Python predicate, so that a pool answers
alike on every store. The Monitor views have PiCaS's names and meaning. A user's view is a Monitor state with a further
condition (by core count, by workflow), in a design document of its own:

    View("SingleCore/todo", TokenState.TODO, field("cores") == 1)

A condition compares like with like: a number with a number, a string with a string. A field that is missing, or of
another type, fulfils no comparison, `!=` included. Numbers are doubles, as in JavaScript. Strings are ordered by code
point, but CouchDB puts what is beyond U+FFFF before U+E000.
"""

from __future__ import annotations

from apicas.views.conditions import Comparison, Condition, Either, Every, Not, Scalar, condition_from_json, field
from apicas.views.view import (
    MONITOR,
    MONITOR_VIEWS,
    OVERVIEW,
    STATES,
    View,
    design_document,
    full_name,
    monitor_design,
    overview_map_function,
)

__all__ = [
    "MONITOR",
    "MONITOR_VIEWS",
    "OVERVIEW",
    "STATES",
    "Comparison",
    "Condition",
    "Either",
    "Every",
    "Not",
    "Scalar",
    "View",
    "condition_from_json",
    "design_document",
    "field",
    "full_name",
    "monitor_design",
    "overview_map_function",
]
