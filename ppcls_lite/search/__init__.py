"""Looks for the network that fits a latency on this machine: `ppcls-lite search`."""
