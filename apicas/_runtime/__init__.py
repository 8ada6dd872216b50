"""The pilot at work: services over a client, each a `run_once` with the work and a loop with none.

claims.py wins tokens, leases.py remembers what is held, heartbeat.py keeps the locks fresh, committer.py writes the
outcomes, reaper.py takes back what dead pilots left, keeper.py holds these together for one client. executor.py turns
the user's code into a verdict, outcomes.py a verdict into a document, and pilot.py runs many at once.
"""
