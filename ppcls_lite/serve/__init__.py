"""An HTTP service around a Predictor: post an image, get its classes. Read first: app.py."""
