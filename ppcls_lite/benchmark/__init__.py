"""What a network takes on this machine: latencies of engines, in turns. Read first: cli.py."""
