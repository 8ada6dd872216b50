"""A program as PiCaS users have it, with the two lines changed; `--picas` runs it as it was before.

python picas_actor.py SERVER DATABASE USER PASSWORD ACTOR [OPTIONS AS JSON]
"""

import json
import os
import sys
import time
from pathlib import Path

from picas.actors import RunActor  # type: ignore[import-not-found]
from picas.clients import CouchDB  # type: ignore[import-not-found]
from picas.documents import Task  # type: ignore[import-not-found]
from picas.executers import execute  # type: ignore[import-not-found]
from picas.iterators import EndlessViewIterator, PrioritizedViewIterator  # type: ignore[import-not-found]
from picas.modifiers import BasicTokenModifier  # type: ignore[import-not-found]

if "--picas" not in sys.argv:
    import apicas.picas


class Shell(RunActor):  # type: ignore[misc]
    """The actor of PiCaS's own examples."""

    def __init__(self, db, modifier, view="todo", **viewargs):  # type: ignore[no-untyped-def]
        super().__init__(db, view=view, **viewargs)
        self.modifier = modifier
        self.client = db

    def process_task(self, token):  # type: ignore[no-untyped-def]
        out = execute(["sh", "-c", token["input"]])
        self.subprocess = out[0]
        token["exit_code"] = out[1]
        token = self.modifier.close(token)
        token.put_attachment("stdout.txt", out[2])
        return "which PiCaS does not look at"


class Old(RunActor):  # type: ignore[misc]
    """One with the signature of years ago, and hooks; each process counts its own."""

    def __init__(self, db, modifier):  # type: ignore[no-untyped-def]
        super().__init__(db)
        self.iterator = EndlessViewIterator(self.iterator, stop_callback=lambda: self.ended() >= 4)
        self.modifier = modifier
        self.client = db
        self.calls = []

    def ended(self):  # type: ignore[no-untyped-def]
        return len(self.client.view("done").rows)

    def prepare_env(self, *args, **kwargs):  # type: ignore[no-untyped-def]
        self.calls.append("prepare_env")

    def prepare_run(self):  # type: ignore[no-untyped-def]
        self.calls.append("prepare_run")

    def process_token(self, key, token):  # type: ignore[no-untyped-def]
        token["output"] = {"key": key, "calls": list(self.calls), "process": os.getpid(), "type": type(token).__name__}
        self.modifier.close(token)

    def cleanup_run(self, *args, **kwargs):  # type: ignore[no-untyped-def]
        self.calls.append("cleanup_run")


class Database(Shell):
    """Does all that one can do with self.db, to its own token and to others."""

    def process_task(self, token):  # type: ignore[no-untyped-def]
        token["progress"] = "saved"
        self.db.save(token)
        token["rev"] = token.rev
        other_copy = self.db.get(token.id)
        other_copy["through a copy"] = other_copy["progress"]
        del other_copy["useless"]
        self.db.save(other_copy)
        self.client.db[token.id] = {**self.client.db[token.id], "raw": True}
        written = self.db.save_documents([Task({"_id": "follow-up", "type": "note"}), token])
        token["written"] = written
        self.client.db.put_attachment(token.doc, "by hand", "hand.txt")
        token["read back"] = self.client.db.get_attachment(token.id, "hand.txt").read().decode()
        self.reconnect()
        self.db.save(token)
        note = self.db.get("follow-up")
        note["found"] = True
        self.db.save(note)
        try:
            self.db.delete(token)
        except RuntimeError as error:
            token["deleted"] = str(error)
        token["held"] = [row.id for row in self.db.view("locked")]


class Endings(Shell):
    """Each token says how it is to end."""

    def process_task(self, token):  # type: ignore[no-untyped-def]
        match token["input"]:
            case "scrub":
                token.scrub() if token["scrub_count"] < 2 else self.modifier.close(token)
            case "unlock":
                self.modifier.unlock(token)
                self.iterator.stop()
            case "error":
                token.error("said by the actor")
            case "raise":
                raise ValueError("broken")
            case "list":
                token["exit_code"] = []
                self.modifier.close(token)
            case "sleep":
                time.sleep(600)


class Limited(Shell):
    """Stops after two tokens, by its iterator's callback."""

    def __init__(self, db, modifier):  # type: ignore[no-untyped-def]
        super().__init__(db, modifier)
        self.iterator = EndlessViewIterator(self.iterator, stop_callback=self.is_over, limit=2)
        self.asked = 0

    def is_over(self, limit):  # type: ignore[no-untyped-def]
        self.asked += 1
        return self.asked >= limit


class Meeting(Shell):
    """Tokens that wait for one another: worked at the same time, or never."""

    def process_task(self, token):  # type: ignore[no-untyped-def]
        directory = Path(token["input"])
        (directory / token.id).touch()
        while len(list(directory.iterdir())) < 2:
            time.sleep(0.01)
        token["output"] = os.getpid()


class Unprepared(Shell):
    def prepare_env(self):  # type: ignore[no-untyped-def]
        raise OSError("no scratch here")


def main():  # type: ignore[no-untyped-def]
    arguments = [argument for argument in sys.argv[1:] if argument != "--picas"]
    url, database, username, password, name, *rest = arguments
    client = CouchDB(url=url, db=database, username=username or None, password=password)
    modifier = BasicTokenModifier()
    options = {"max_token_time": 60, **(json.loads(rest[0]) if rest else {})}
    if tasks := options.pop("tasks", 0):
        client.save_documents([Task({"_id": f"task{n}", "input": "true"}) for n in range(tasks)])
    actor = globals()[name](client, modifier, **options.pop("viewargs", {}))
    if views := options.pop("views", None):
        actor.iterator = PrioritizedViewIterator(client, *views, design_doc=options.pop("design"))
    if "--picas" in sys.argv:
        actor.run(**options)
    else:
        print(apicas.picas.run(actor, **options))


if __name__ == "__main__":
    main()
