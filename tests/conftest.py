"""What holds for all tests."""

from __future__ import annotations

import signal

# A shell starts what it puts into the background with SIGINT ignored, and that is inherited: programs under test would
# not hear the Ctrl-C that tests send them.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
