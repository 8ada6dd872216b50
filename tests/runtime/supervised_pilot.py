"""A pilot with one command token: for tests that kill it.

    python supervised_pilot.py PIPE (stay | end | process) [fork]

It writes its own process id and its supervisor's into the named pipe first. With `fork` it has a forked child besides,
which waits for ever.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import apicas
from apicas._runtime.commands.command import CommandRunner
from apicas._runtime.processes.supervision import supervision
from tests.runtime.isolated_work import leaves

LEAVER = Path(__file__).with_name("leaver.py")


async def main(pipe: str, how: str) -> None:
    async with apicas.MemoryClient() as client:
        await client.upload([{"input": {"pipe": pipe, "end": "never"}}])
        report = await apicas.run(
            leaves if how == "process" else CommandRunner([sys.executable, "-S", str(LEAVER), pipe, how]),
            client,
            executor="process" if how == "process" else "auto",
            workers=1,
            grace=0.2,
            handle_signals=True,
        )
    print(report.done, report.released)


if __name__ == "__main__":
    import asyncio

    supervision()
    if sys.argv[3:] == ["fork"] and not os.fork():
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        while True:
            signal.pause()
    with Path(sys.argv[1]).open("w") as told:
        print(os.getpid(), supervision().supervisor_pid, file=told)
    asyncio.run(main(*sys.argv[1:3]))
