"""What the pilots wrote down, read by the benchmark while they run and after."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(slots=True)
class Execution:
    """One execution of a token."""

    id: str
    token: str
    generation: int
    pilot: str
    begun: float
    ended: float | None = None
    """Monotonic seconds; None where its process ended before it did."""
    error: str = ""
    """What cut it, or what it raised."""

    @property
    def finished(self) -> bool:
        """Whether it came to its end with a result."""
        return self.ended is not None and not self.error


@dataclass(slots=True)
class Life:
    """What was done to one pilot process, by the benchmark's own clock."""

    name: str
    is_picas: bool
    ledger: Path
    started: float
    killed: float | None = None
    terminated: bool = False
    """Whether it was told to end."""
    ended: float | None = None
    code: int | None = None
    stops: list[tuple[float, float]] = field(default_factory=list)
    """From when to when it was stopped."""

    @property
    def gone(self) -> float:
        """When it was gone at the latest."""
        times = [at for at in (self.killed, self.ended) if at is not None]
        return min(times, default=float("inf"))


class Ledger:
    """All lines of all pilots of one run."""

    def __init__(self) -> None:
        self.executions: dict[str, Execution] = {}
        self.endings: list[tuple[float, str, str]] = []
        """Time, pilot, and how a token left it."""
        self.reclaims: list[tuple[float, str]] = []
        """Time and token."""
        self._owners: list[tuple[float, str]] = []
        self.ended: set[str] = set()
        """Tokens of which an execution came to its end."""
        self.busy: set[str] = set()
        """Pilots that have begun with a token."""
        self._names: dict[str, str] = {}
        self._files: dict[str, tuple[Path, int]] = {}

    @property
    def taken_from(self) -> list[tuple[float, str]]:
        """Time of each reclaim, and which pilot had the token; none of those that had begun with nothing."""
        # Only now: the lines of the one who reclaimed may be read before those of the owner.
        return [(at, name) for at, owner in self._owners for identity, name in self._names.items() if identity in owner]

    def follow(self, pilot: str, path: Path) -> None:
        """Read the lines of one more pilot."""
        self._files[pilot] = (path, 0)

    def poll(self) -> None:
        """Read what was written since."""
        for pilot, (path, offset) in list(self._files.items()):
            if path.exists() and path.stat().st_size > offset:
                with path.open("rb") as file:
                    file.seek(offset)
                    whole = file.read().rpartition(b"\n")[0]
                for line in whole.splitlines():
                    self._add(pilot, line.decode().split("\t"))
                self._files[pilot] = (path, offset + len(whole) + 1) if whole else (path, offset)

    def _add(self, pilot: str, line: list[str]) -> None:
        kind, time, *fields = line
        at = float(time)
        match kind:
            case "B":
                execution, token, generation, identity = fields
                if identity != "None":  # PiCaS has none
                    self._names[identity] = pilot
                self.executions[execution] = Execution(execution, token, int(generation), pilot, at)
                self.busy.add(pilot)
            case "E":
                self.executions[fields[0]].ended = at
                self.ended.add(self.executions[fields[0]].token)
            case "X":
                self.executions[fields[0]].ended = at
                self.executions[fields[0]].error = fields[1]
            case "C":
                self.endings.append((at, pilot, fields[0]))
            case "R":
                token, owner = fields
                self.reclaims.append((at, token))
                self._owners.append((at, owner))
            case _:
                raise ValueError(f"a line of an unknown kind from {pilot}: {line}")
