"""Masks: the class of each pixel of an image, whole numbers from 0 on."""

from __future__ import annotations

MASK_FILL = 255  # a pixel that counts nowhere: unlabelled, or from outside the image
