"""Native CPU kernels for training: what mobile networks spend their time on, without Paddle's ops.

Depthwise and dense convolution, classifier, and batch normalisation with its
activation, in C++ (`source/`), compiled on first use for the machine at hand. `available` gives
the library or the reason why there is none; `convert` puts it into a network.
"""

from ppcls_lite.kernels.native import available, prepare, prepare_to_score
from ppcls_lite.kernels.swap import convert, revert

__all__ = ["available", "convert", "prepare", "prepare_to_score", "revert"]
