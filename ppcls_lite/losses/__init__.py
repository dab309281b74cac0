"""Training objectives: `loss(outputs, batch) -> dict of named scalar terms`, times their weight.

cross_entropy.py (one class per image), multilabel.py (several attributes per image),
distillation.py and distillation_terms.py (a student against its teacher), feature_distance.py (of
features), combined.py (the list of a recipe).
"""
