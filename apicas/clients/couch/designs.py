"""Design documents: what a pool should have, against what it has. Plain functions of mappings.

Monitor is PiCaS's, and shared with it: what it has is kept. Ours has the digest of its content in its name, so an
installed one never changes under the pilots that use it.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from typing import Any, Final, TypeAlias

from apicas._documents import encode
from apicas.views import monitor_design

Views: TypeAlias = Mapping[str, Any]

TOKENS_VIEW: Final = "tokens"
CONFLICTS_VIEW: Final = "conflicts"
_OWN_VIEWS: Final[Views] = {
    TOKENS_VIEW: {
        "map": 'function (doc) {\n  if (doc.type === "token") {\n    emit(null, null);\n  }\n}',
        "reduce": "_count",
    },
    # `_conflicts` is there for map functions only where a document has several live leaves.
    CONFLICTS_VIEW: {
        "map": (
            'function (doc) {\n  if ((doc.type === "token" || doc.type === "task") && doc._conflicts) {\n'
            "    emit(null, null);\n  }\n}"
        ),
    },
}
# Not kept up to date with every write: only `status`, healing and the sweeps of pilots on a cluster ask for them.
OWN_SETTINGS: Final[Mapping[str, Any]] = {"autoupdate": False}
OWN_NAME: Final = f"apicas-{sha256(encode(_OWN_VIEWS)).hexdigest()[:12]}"


def monitor_views() -> Views:
    """The five views of Monitor."""
    views: Views = monitor_design()["views"]
    return views


def own_views() -> Views:
    """The views of our own design document."""
    return _OWN_VIEWS


def completed(stored: Views, ours: Views) -> Views:
    """The stored views, with those of ours that are missing."""
    return {**ours, **stored}


def replaced(stored: Views, ours: Views) -> Views:
    """Our views, with those of the stored ones that we do not have."""
    return {**stored, **ours}


def differs(stored: Views, ours: Views) -> bool:
    """Whether a view of ours is stored with another text."""
    return any(name in stored and stored[name] != view for name, view in ours.items())
