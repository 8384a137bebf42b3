"""Special values of label maps."""

VOID = 255
"""The label of pixels that are ignored in training and scoring."""

MAX_CLASSES = 255
"""The largest number of classes: class indices are stored as uint8, and 255 is void."""
