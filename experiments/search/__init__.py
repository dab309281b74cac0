"""Does a search find more than PP-LCNet's scales? `python -m experiments.search.prove`."""
