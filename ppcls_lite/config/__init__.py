"""What a recipe may say, checked before Paddle is loaded. Read first: file.py, then check.py."""
