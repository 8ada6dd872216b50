"""Processes of the system: started, followed, and ended with all that they have started.

children.py starts them and groups.py signals them; marks.py tells which are whose, supervision.py sees to it that
nothing is left while this process lives, and supervisor.py when it does not.
"""
