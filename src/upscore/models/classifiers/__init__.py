"""Image classifiers and their conversion to fully convolutional networks (FCN section 3)."""
