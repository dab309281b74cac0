"""An HTTP service around a Predictor: post an image, get its answer. Read first: app.py."""
