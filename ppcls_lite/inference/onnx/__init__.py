"""ONNX files written from the network's program."""
