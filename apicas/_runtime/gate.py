"""A gate to the pilot's own process: many tokens are worked in it at once, or one that must have it to itself."""

from __future__ import annotations

import anyio


class Gate:
    """Lets many in, or one alone. Whoever wants to be alone waits for those inside, and the others wait for it."""

    def __init__(self) -> None:
        self._inside = 0
        self._taken = False
        self._opened = anyio.Event()
        self._emptied = anyio.Event()

    @property
    def taken(self) -> bool:
        """Whether somebody is alone inside, or waits to be."""
        return self._taken

    async def enter(self) -> None:
        """Go in beside others."""
        while self._taken:
            await self._opened.wait()
        self._inside += 1

    def enter_open(self) -> None:
        """Go in at once: nobody is alone inside, or waits to be."""
        self._inside += 1

    def leave(self) -> None:
        """Go out."""
        self._inside -= 1
        if not self._inside:
            self._emptied.set()

    async def enter_alone(self) -> None:
        """Go in when nobody else is there, and let nobody in."""
        while self._taken:
            await self._opened.wait()
        self._taken = True
        self._opened = anyio.Event()
        try:
            while self._inside:
                self._emptied = anyio.Event()
                await self._emptied.wait()
        except BaseException:
            self.leave_alone()
            raise

    def leave_alone(self) -> None:
        """Go out, and let others in."""
        self._taken = False
        self._opened.set()
