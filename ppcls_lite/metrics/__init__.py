"""Scores of a network on a data set: `reset()`, `update(outputs, batch)`, `result()`.

base.py (the contract), topk.py (and TprAtFpr), confusion.py (per-class scores), multilabel.py
(several attributes per image); objects.py (what detectors found), coco_ap.py, voc_ap.py.
"""
