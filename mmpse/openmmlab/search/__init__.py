"""Searches of a trained supernet, as loops of MMEngine."""
