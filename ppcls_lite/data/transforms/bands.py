"""TIFF files of more than four bands, which OpenCV and Pillow do not read.

By tifffile (https://github.com/cgohlke/tifffile), the extra `multispectral`.
"""

from __future__ import annotations

import io

import numpy as np

from ppcls_lite.errors import UserError

_MARKS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # TIFF and BigTIFF, both byte orders
MOST_OF_OTHERS = 4  # bands that OpenCV reads


def is_tiff(data: bytes) -> bool:
    """Whether a file begins as a TIFF does."""
    return data.startswith(_MARKS)


def read_bands(data: bytes, most: int) -> np.ndarray:
    """The first picture of a TIFF as (H, W, bands), in its own type.

    Raises UserError without tifffile, and where it has more than `most` samples; for damaged bytes
    whatever tifffile raises.
    """
    try:
        import tifffile
    except ImportError:
        raise UserError(
            "a TIFF of more than four bands is read by tifffile, which is not installed: "
            'pip install tifffile (or ".[multispectral]"), or save (H, W, bands) arrays as .npy'
        ) from None
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page = file.pages[0]
        if page.size > most:
            raise UserError(f"{page.size} samples; expected at most {most}")
        pixels = page.asarray()
        separate = page.planarconfig == tifffile.PLANARCONFIG.SEPARATE
    return pixels.transpose(1, 2, 0) if separate and pixels.ndim == 3 else pixels
