"""Readers of object annotations: COCO, VOC, YOLO and LabelMe files become one table of boxes."""
