"""Backbones: classifiers without their last layers, which return feature maps at several strides."""
