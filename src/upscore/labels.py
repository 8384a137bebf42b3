"""What the numbers in a label map mean."""

VOID = 255
"""The label of pixels that are neither trained on nor scored."""

MAX_CLASSES = 255
"""Class indices are stored in a byte, and 255 is void."""
