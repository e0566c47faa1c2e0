"""Stage-wise search (arXiv 2011.04908)."""
