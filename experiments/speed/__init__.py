"""The measurements behind every speed that the documents state; run by tools/benchmark.py."""
