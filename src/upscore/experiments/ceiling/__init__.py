"""Upper bound of each output stride on the labels of a data set (FCN section 4.1)."""
