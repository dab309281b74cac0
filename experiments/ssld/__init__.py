"""The proof that distillation helps; run by tools/prove_ssld.py."""
