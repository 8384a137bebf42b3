"""FCN and Mask R-CNN as plain torch modules."""

from upscore.models.build import build
from upscore.models.fcn.fcn import FCN
from upscore.models.mask_rcnn.mask_rcnn import MaskRCNN
from upscore.models.preprocessing import Preprocessing

__all__ = ["FCN", "MaskRCNN", "Preprocessing", "build"]
