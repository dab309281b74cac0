"""A checked recipe becomes a run. Read first: commands.py."""
