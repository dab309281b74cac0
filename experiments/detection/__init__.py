"""Proofs of detection on real images."""
