"""Mask R-CNN (He, Gkioxari, Dollar, Girshick 2017)."""
