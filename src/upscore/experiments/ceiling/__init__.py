"""Upper bounds of IoU by output stride for the labels of a data set (FCN section 6.3)."""
