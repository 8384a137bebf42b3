"""Backbones: classifiers without their last layers, which return feature maps of several strides."""
