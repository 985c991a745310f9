"""What the pixels of a layout may be."""

CLASSES = {
    "void": (0, 0, 0),
    "road": (128, 64, 128),
    "sidewalk": (244, 35, 232),
    "building": (70, 70, 70),
    "pole or sign": (153, 153, 153),
    "vegetation": (107, 142, 35),
    "sky": (70, 130, 180),
    "person": (220, 20, 60),
    "vehicle": (0, 0, 142),
    "bicycle": (119, 11, 32),
}
"""Of ``imle-layout``, in order, with the colours that they are drawn in (those of Cityscapes)."""
