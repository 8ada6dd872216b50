"""The six steps, as every PiCaS user knows them, in asyncio.

Run it twice: the second time there is nothing left to do.

    python quickstart.py [POOL]        # sqlite:///quickstart.db where no pool is named
"""

from __future__ import annotations

import asyncio
import sys

import apicas


# 1. Extend RunActor with the hooks you need; only process_token must be there.
class Squares(apicas.RunActor):
    async def prepare_env(self) -> None:
        print("once per pilot: load what all tokens need")

    async def prepare_run(self, token: apicas.Token) -> None:
        print(f"before {token.id}")

    async def process_token(self, token: apicas.Token) -> int:
        await asyncio.sleep(0.1)  # stands for real work
        return int(token["input"]) ** 2  # what is returned becomes the token's output

    async def cleanup_run(self, token: apicas.Token) -> None:
        print(f"after {token.id}, also when it failed")

    async def cleanup_env(self) -> None:
        print("once, at the end")


async def main(pool: str) -> None:
    # 2. Make a client.
    async with apicas.connect(pool) as client:
        await client.setup()
        await client.upload({"_id": f"square-{n}", "input": n} for n in range(5))
        # 3. and 4. Make a modifier and an iterator.
        modifier = apicas.BasicTokenModifier()
        iterator = apicas.BasicViewIterator(client, modifier, view="Monitor/todo")
        # 5. Hand them to the actor.
        actor = Squares(iterator, modifier)
        # 6. Run.
        report = await actor.run(workers=4, max_scrub=2, max_total_time=3600, handle_signals=True)
        print(report)
        for row in await client.view("done", include_docs=True):
            if row.document:
                print(f"{row.id}: {row.document['input']} -> {row.document['output']}")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "sqlite:///quickstart.db"))
