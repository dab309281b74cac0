"""From a trained network to answers on a server, without any training code.

export.py turns a network into a folder of program, weights and `inference.yml` (spec.py).
predictor.py reads it and puts an image's three steps together (pipeline.py): preprocess.py,
engines/ and postprocess/, which alone knows what an answer is. agreement.py says when two runs
agree. cli/ has the commands; auto/, onnx/ and quantize/ are about the engines.
"""
