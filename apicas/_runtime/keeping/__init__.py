"""Keeping tokens: from the claim until the outcome is in the pool.

claims.py wins tokens, leases.py remembers what is held, heartbeat.py keeps the locks fresh, outcomes.py turns a verdict
into a document, committer.py writes it, reaper.py takes back what dead pilots left, healer.py mends what a cluster has
split; keeper.py holds these together for one client.
"""
