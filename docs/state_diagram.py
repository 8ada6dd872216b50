# ruff: noqa: INP001 - a script
"""Draw the states of a token from the table in apicas.tokens, as Mermaid: `python docs/state_diagram.py`.

docs/design/0001-tokens.md holds what this prints; a test compares them.
"""

from __future__ import annotations

import sys

from apicas.tokens import TRANSITIONS, Change, TokenState


def arrows() -> dict[tuple[TokenState, TokenState], list[Change]]:
    """The changes that lead from one state to another, by both states. One that ends where it began is left out."""
    found: dict[tuple[TokenState, TokenState], list[Change]] = {}
    for change, moves in TRANSITIONS.items():
        for state, goals in moves.items():
            for goal in goals:
                if goal is not state:
                    found.setdefault((state, goal), []).append(change)
    return found


def diagram() -> str:
    """The diagram as Mermaid text."""
    lines = ["stateDiagram-v2", f"    [*] --> {TokenState.TODO}: upload"]
    order = list(TokenState)
    for (state, goal), changes in sorted(arrows().items(), key=lambda arrow: [order.index(end) for end in arrow[0]]):
        label = ", ".join(change.name.lower() for change in changes)
        lines.append(f"    {state} --> {goal}: {label}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.stdout.write(diagram() + "\n")
