"""Teachers, the cache of their logits, and the choice of unlabelled images."""
