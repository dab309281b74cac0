"""The commands predict and quantize, and what they write."""
