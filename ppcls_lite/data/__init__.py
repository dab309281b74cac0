"""From image files to batches.

samplers.py says which samples form a batch, datasets.py (lists, image_list.py) or folder.py (class
folders) finds them, transforms/ turns each into an array, batch_transforms.py mixes them, loader.py
does all this in worker processes. datasets_detection.py has boxes, which annotations/ reads.
scan.py looks for mistakes first, prepare/ writes the lists.
"""
