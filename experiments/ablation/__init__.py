"""The ablations of the PP-LCNet paper (tables 6 to 9), trained again on a data set of your choice.

Start with ablate.py; docs/ablation.md shows the command.
"""
