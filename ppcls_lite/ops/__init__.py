"""What parts compute on boxes and along axes: pure functions, which know nothing of the package."""
