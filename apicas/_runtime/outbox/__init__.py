"""The outbox: finished results that are not in the pool yet, on disk, until some pilot of the user has written them."""
