"""apicas: pilot jobs on a pool of tokens, in asyncio. The successor of PiCaS."""

__version__ = "0.1.0.dev0"
