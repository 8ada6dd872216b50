"""What is kept of an attempt at a token while it runs: what it prints, how far it is, what it took.

logs.py keeps output within bounds, notes.py what is known, and the thread of scribe.py looks after the files that
others can follow; they are in the directory of places.py.
"""
