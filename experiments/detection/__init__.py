"""Does the order of the trunks in table 4 hold at a small budget? `python -m experiments.detection.trunks`."""
