"""What the tests of replicated stores share: a token that several replicas store in several versions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from apicas._documents import Document, encode
from apicas.iterators import BasicViewIterator
from apicas.modifiers import BasicTokenModifier, Claim, Owner
from apicas.testing.replicas import ReplicatedClient
from apicas.testing.revisions import make_revision
from apicas.testing.store import ReplicatedStore
from apicas.testing.virtual import unix_time, virtual_environment
from tests.runtime.virtual import LEASE


def member(store: ReplicatedStore, name: str, home: int = 0, **keywords: Any) -> BasicViewIterator:
    """A pilot's iterator over a client of its own."""
    environment = virtual_environment(name)
    return BasicViewIterator(
        ReplicatedClient(store, name, home), BasicTokenModifier(), environment=environment, **keywords
    )


def locked(document: Mapping[str, Any], name: str, **changes: Any) -> Document:
    """A token as a pilot would lock it that is never heard of again."""
    owner = Owner(pilot=name, hostname=f"{name}-node", process="e15e.1.1")
    claim = Claim(claim_id=f"claim-of-{name}", owner=owner, now=unix_time(), lease=LEASE)
    return {**BasicTokenModifier().lock(dict(document), claim), **changes}


def plant(store: ReplicatedStore, document: Mapping[str, Any], digest: str) -> str:
    """Put a version beside the others, as the replicas tell each other of one: a child of the `_rev` it has.

    Args:
        store: the store.
        document: what it says.
        digest: of the new revision; of versions of the same age the greatest is shown.

    Returns:
        The new revision.
    """
    content = {name: value for name, value in document.items() if name not in {"_rev", "_conflicts"}}
    parent = store.revisions[document["_id"], document["_rev"]]
    revision = make_revision(document["_id"], parent, digest, encode(content))
    store.revisions[revision.id, revision.rev] = revision
    for replica in store.replicas:
        replica.learn(revision)
    return revision.rev
