"""How Hypothesis runs here: on a busy machine too, where a deadline would fail what is right."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("apicas", deadline=None, max_examples=50, print_blob=True)
settings.load_profile("apicas")
