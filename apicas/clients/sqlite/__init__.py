"""A pool in one SQLite file: nothing to set up, shared by any number of processes of one node.

client.py is the adapter. Each client has one thread that owns its connection (thread.py); what is asked of it runs
there as plain functions over a connection: documents.py and attachments.py read and write, what drafts.py prepared in
the loop; listings.py turns views into SQL. schema.py makes and checks the file, file_systems.py knows where a file
cannot be shared, sharing.py what this process has open, failures.py what SQLite's errors mean to a user.
"""

from __future__ import annotations

from apicas.clients.sqlite.client import SQLiteClient

__all__ = ["SQLiteClient"]
