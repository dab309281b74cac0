"""The networks. zoo.py names them, backbone.py states their contract, create.py builds them.

Importing this package loads no Paddle, so that names and published scores can be listed anywhere.
"""
