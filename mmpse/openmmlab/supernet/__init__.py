"""Training any model as a supernet, by a hook of MMEngine."""
