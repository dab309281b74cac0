"""A checked recipe becomes a run. Read first: start.py."""
