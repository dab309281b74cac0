"""`ppcls-lite convert-config FILE`: a recipe of PaddleSeg or PaddleDetection as one of ours.

reader.py reads the foreign file with its bases, keys.py keeps account of every key, a module for
each toolkit says what its keys mean here, dialects.py finds out whose the file is.
"""
