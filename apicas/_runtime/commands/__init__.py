"""Commands: run to their end, captured within bounds, and as the work of a token.

running.py starts one and ends all of it; command.py makes a token's work of one, with the fields that templates.py puts
in, the attachments that files.py brings and fetches, and a directory of workdirs.py.
"""
