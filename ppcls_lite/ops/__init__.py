"""What detection computes on boxes: pure functions of arrays, which know nothing of the package."""
