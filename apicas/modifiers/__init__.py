"""Every change of a token's state, in one place.

Rules:
- A modifier looks at nothing but its arguments: no clock, no host name, no store. Times and names come in as a `Claim`
  or as `now`; an iterator binds its own to the modifier, so that a user's `modifier.close(token)` needs no more.
- The mapping that is passed in is changed and returned, because PiCaS actors rely on both. The runtime passes copies.
- A change that the token's state does not allow raises TransitionError, which names both states.
- A field of an odd type is written back as it should be; it never ends the pilot.
"""

from __future__ import annotations

from apicas.modifiers.basic import BasicTokenModifier, noted
from apicas.modifiers.claims import CLAIM_FIELDS, JOB_ID_FIELDS, NOTE_FIELDS, Claim, Owner, batch_job_ids
from apicas.modifiers.nested import NestedTokenModifier
from apicas.modifiers.protocol import TokenModifier

__all__ = [
    "CLAIM_FIELDS",
    "JOB_ID_FIELDS",
    "NOTE_FIELDS",
    "BasicTokenModifier",
    "Claim",
    "NestedTokenModifier",
    "Owner",
    "TokenModifier",
    "batch_job_ids",
    "noted",
]
