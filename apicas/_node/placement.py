"""Which cores: plain functions over CPU numbers."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence


def choose_cores(free: Collection[int], wanted: int, nodes: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """Choose cores that are near each other: in one NUMA node if one has enough, and in a row if there is one.

    The node with the fewest free cores that suffice is taken, and the shortest such row, so that what is left is as
    whole as can be. Where no node has enough, the fullest free ones are taken first, so that few take part.

    Args:
        free: cores to choose from, at least `wanted`.
        wanted: how many.
        nodes: the cores of each NUMA node.
    """
    if wanted <= 0:
        return ()
    groups = [group for node in nodes if (group := [core for core in node if core in free])]
    enough = [group for group in groups if len(group) >= wanted]
    if enough:
        return tuple(_in_a_row(min(enough, key=len), wanted))
    chosen: list[int] = []
    for group in sorted(groups, key=len, reverse=True):
        chosen += _in_a_row(group, min(wanted - len(chosen), len(group)))
        if len(chosen) == wanted:
            break
    return tuple(sorted(chosen))


def _in_a_row(cores: Sequence[int], wanted: int) -> list[int]:
    """That many of some cores: of the shortest row that suffices, else of the longest rows there are."""
    rows = list(_rows(sorted(cores)))
    enough = [row for row in rows if len(row) >= wanted]
    if enough:
        return min(enough, key=len)[:wanted]
    longest_first = [core for row in sorted(rows, key=len, reverse=True) for core in row]
    return sorted(longest_first[:wanted])


def _rows(cores: Sequence[int]) -> Iterator[list[int]]:
    row: list[int] = []
    for core in cores:
        if row and core != row[-1] + 1:
            yield row
            row = []
        row.append(core)
    if row:
        yield row
