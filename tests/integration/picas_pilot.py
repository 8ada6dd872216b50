"""A pilot as a PiCaS user writes it, for the real package: run by test_picas.py in an environment of its own.

Usage: picas_pilot.py URL DATABASE USERNAME PASSWORD COMMAND [NUMBER]

push N    save N tokens the way PiCaS's push script does
run       work all tokens, with a subprocess, an exit code, close() and attached logs
rows      print the rows of every Monitor view as JSON
reset V   put the tokens of view V back the way PiCaS's reset script does
"""

import json
import sys

from picas.actors import RunActor
from picas.clients import CouchDB
from picas.documents import Task
from picas.executers import execute
from picas.modifiers import BasicTokenModifier


class Actor(RunActor):
    """Runs the input of each token in a shell."""

    def __init__(self, db):
        super().__init__(db, view="todo")
        self.modifier = BasicTokenModifier()
        self.client = db

    def process_task(self, token):
        result = execute(["sh", "-c", token["input"]])
        self.subprocess = result[0]
        token["exit_code"] = result[1]
        token = self.modifier.close(token)
        token.put_attachment("stdout.txt", result[2])


def push(db, number):
    tasks = [
        Task({"_id": f"picas-{n:04}", "type": "token", "input": f"echo picas {n}; exit {int(n % 3 == 2)}"})
        for n in range(int(number))
    ]
    print(sum(db.save_documents(tasks)))


def run(db):
    Actor(db).run(max_token_time=60, max_scrub=0)


def rows(db):
    views = {
        name: [[row.id, row.key, row.value] for row in db.view(name)] for name in ("todo", "locked", "done", "error")
    }
    views["overview_total"] = [[row.id, row.key, row.value] for row in db.view("overview_total", group=True)]
    print(json.dumps(views))


def reset(db, view):
    documents = []
    for row in db.view(view):
        document = db.db[row["key"]]
        document["lock"] = 0
        document["done"] = 0
        document["scrub_count"] += 1
        document["hostname"] = ""
        document["exit_code"] = ""
        documents.append(document)
    db.db.update(documents)


def main():
    url, database, username, password, command, *arguments = sys.argv[1:]
    db = CouchDB(url=url, db=database, username=username or None, password=password)
    {"push": push, "run": run, "rows": rows, "reset": reset}[command](db, *arguments)


if __name__ == "__main__":
    main()
