"""The pilot at work. pilot.py claims ahead of its workers, executor.py takes a token through the user's hooks.

Below them, each using only what is further down:

- isolation/: a token's work in a process of its own.
- keeping/: claims, leases, beats, commits, reclaims: services, each a `run_once` with the work and a loop with none.
- commands/: programs as the work of a token.
- outbox/: finished results that are not in the pool yet. attempts/: what is known of an attempt while it runs.
- processes/: processes of the system, followed and ended with all that they started.
"""
