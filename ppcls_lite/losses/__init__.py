"""Training objectives: `loss(outputs, batch) -> dict of named scalar terms`, times their weight.

base.py (the contract, and the list of a recipe), cross_entropy.py (of one class or several
attributes per image), distillation.py and distillation_terms.py (a student against its teacher).
"""
