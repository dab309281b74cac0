"""From a trained network to predictions on a server, without any training code.

An image's way: export.py turns a network into a folder of program, weights and `inference.yml`
(spec.py); engines/ run the program; predictor.py puts pre-processing, engine and
postprocess.py together. predict_cli.py is the command, inputs.py and output.py its two ends.
"""
