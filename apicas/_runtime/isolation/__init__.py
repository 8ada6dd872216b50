"""Worker processes: a token's work in a process of its own, so that what kills it kills nothing else.

pool.py keeps processes warm, isolation.py is the pilot's side of one and isolated.py the far side; what they say to
each other is in frames.py, verdicts.py and remote.py.
"""
