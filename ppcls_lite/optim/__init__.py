"""Optimizers (optimizers.py) and learning rates as functions of the step (schedule.py)."""
