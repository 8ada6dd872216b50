"""How a pool behaves beyond this machine: a model in virtual time, with the real policies and measured costs."""
