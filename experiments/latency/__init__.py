"""The published latencies beside this machine's: `--paper` of deploy/benchmark.py."""
