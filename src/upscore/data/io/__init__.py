"""Image decoding: file formats, bit depths, and windows of images larger than memory."""
