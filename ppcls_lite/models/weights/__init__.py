"""Weights from files: read strictly, fetched, converted."""
