"""The engine: one training loop, evaluation, checkpoints and records.

It is handed objects and imports no model, loss or data set. Read next: trainer.py.
"""
