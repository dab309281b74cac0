"""Does a search find more than the scales of PP-LCNet? Run by `python -m experiments.search.prove`."""
