"""What a token is: the fields that PiCaS fixed, the four states, and which change leads from where to where.

The content of a token is opaque. These fields have a meaning (design: docs/design/0001-tokens.md):

- `lock`, `done`: 0 or unix seconds; `exit_code`: `""` or an integer. Together they are the token's state.
- `hostname`, `scrub_count`, `error`, and the ids of batch jobs: written by the pilot that holds it.
- `apicas`: one sub-object with all that apicas adds: the claim, its generation, and a few counters.
"""

from __future__ import annotations

from apicas.tokens.fields import (
    ERROR_MARK,
    FIRST_LOCK_TIME,
    MAX_ERRORS,
    MAX_HISTORY,
    MAX_MESSAGE,
    annex,
    attempt_of,
    claim_of,
    count,
    generation_of,
    is_foreign_lock,
    is_suspect,
    new_token,
    not_before,
    progress_of,
    taken_from,
)
from apicas.tokens.states import (
    TRANSITIONS,
    TYPES,
    Change,
    TokenState,
    monitor_state,
    next_states,
    state_by_fields,
    state_of,
)
from apicas.tokens.token import Token

__all__ = [
    "ERROR_MARK",
    "FIRST_LOCK_TIME",
    "MAX_ERRORS",
    "MAX_HISTORY",
    "MAX_MESSAGE",
    "TRANSITIONS",
    "TYPES",
    "Change",
    "Token",
    "TokenState",
    "annex",
    "attempt_of",
    "claim_of",
    "count",
    "generation_of",
    "is_foreign_lock",
    "is_suspect",
    "monitor_state",
    "new_token",
    "next_states",
    "not_before",
    "progress_of",
    "state_by_fields",
    "state_of",
    "taken_from",
]
