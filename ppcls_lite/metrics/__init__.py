"""Scores of a network on a data set: `reset()`, `update(outputs, batch)`, `result()`.

base.py (the contract), topk.py, confusion.py (per-class scores), tpr_at_fpr.py (two classes),
multilabel.py (several attributes per image).
"""
