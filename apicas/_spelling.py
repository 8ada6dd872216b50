"""What somebody may have meant who wrote a name that nobody knows."""

from __future__ import annotations

from collections.abc import Collection, Iterable


def unknown_options(owner: str, unknown: Collection[str], known: Iterable[str]) -> str:
    """A message about options that there are none of: with the one that was probably meant, else with all there are.

    Args:
        owner: what was called, such as `run()`.
        unknown: the names.
        known: those that there are.
    """
    from difflib import get_close_matches  # noqa: PLC0415 - hardly anybody needs it

    names = sorted(known)
    guesses = [guess for name in sorted(unknown) for guess in get_close_matches(name, names, n=1)]
    hint = f"did you mean {', '.join(guesses)}?" if len(guesses) == len(unknown) else f"it has {', '.join(names)}"
    return f"{owner} has no option {', '.join(sorted(unknown))}: {hint}"
