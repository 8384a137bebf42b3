"""A network with all that surrounds it: reading, resizing, preprocessing, decoding.

C classes, N objects; H W pixels of the photo, h w of what the network sees of it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from upscore.data.transforms import resize_longest
from upscore.errors import UserError
from upscore.inference.engines import Engine, TorchEngine
from upscore.inference.photos import Photo, as_photo
from upscore.models.fcn import FCN
from upscore.models.mask_rcnn import MaskRCNN
from upscore.models.precision import Precision
from upscore.structures import Prediction, Sample

ROWS_AT_ONCE = 64
"""Rows of a photo whose scores exist at full resolution at the same time."""


class Predictor:
    """Predicts photos of any size with a network that knows its preprocessing and its classes.

    Args:
        net: a network of `upscore.models.build`.
        engine: what runs it; "auto" is the fastest that this machine has.
        precision: "auto" is the fastest that is safe for this network.
        max_side: photos whose longer side is over this many pixels are reduced to it for the network; 0: never. What
            finds objects has a size of its own for each photo.
    """

    def __init__(
        self, net: FCN | MaskRCNN, engine: Engine = "auto", precision: Precision = "auto", *, max_side: int = 0
    ) -> None:
        if engine not in ("auto", "torch"):
            raise UserError(f"no engine is called {engine!r}; choose auto or torch")
        if precision not in ("auto", "float32", "bfloat16"):
            raise UserError(f"no precision is called {precision!r}; choose auto, float32 or bfloat16")
        self.net = net
        self.training: dict[str, Any] = {}
        """Where the weights come from, as the model folder has it; empty for a bare network."""
        self.engine = TorchEngine(net, precision)
        self.max_side = max_side

    @property
    def classes(self) -> list[str]:
        """The C class names."""
        return self.net.classes

    @property
    def task(self) -> str:
        """ "semantic": predictions have a class for each pixel; "instances": they have objects."""
        return self.net.task

    def predict(self, photo: Photo, *, scores: bool = False, min_score: float | None = None) -> Prediction:
        """The most probable class of each pixel, or the objects, at the photo's own size.

        Args:
            photo: a path; a PIL image; an (H, W, 3) or (H, W) uint8 array; or a (3, H, W) uint8 tensor, RGB.
            scores: keep the class probabilities of pixels too, (C, H, W) float16.
            min_score: objects of at least this score, each once; by default the model's own operating point. With 0 all
                candidates are returned, as average precision ranks them, an object's worse ones too.

        Raises:
            UserError: the file can't be read, an array is of another shape or type, or an option is for the other task.
        """
        image = as_photo(photo)
        if isinstance(self.net, MaskRCNN):
            if scores:
                raise UserError("this model finds objects: it has no class probabilities of pixels to keep")
            return self._find(self.net, image, self.net.min_score if min_score is None else min_score)
        if min_score is not None:
            raise UserError("this model classifies pixels: min_score is for models that find objects")
        height, width = image.shape[-2:]
        seen = resize_longest(Sample(name="", image=image), self.max_side).image
        logits = self.engine(self.net.preprocessing(seen[None]))[0]
        class_map, probabilities = _at_size(logits, (height, width), keep=scores)
        return Prediction(
            class_map=class_map.cpu().numpy(),
            classes=self.classes,
            image=image.permute(1, 2, 0).numpy(),
            scores=None if probabilities is None else probabilities.cpu().numpy(),
        )

    def _find(self, net: MaskRCNN, image: Tensor, min_score: float) -> Prediction:
        if not 0 <= min_score <= 1:
            raise UserError(f"min_score={min_score}: scores are from 0 to 1")
        seen = net.resizing(image, net.preprocessing)
        height, width = seen.shape[-2:]
        found = self.engine.decode(self.engine(seen[None]), [(height, width)])[0].instances
        assert found is not None
        found = found.at_least(min_score).resized((image.shape[-2], image.shape[-1]))
        return Prediction(
            instances=found.distinct() if min_score > 0 else found,
            classes=self.classes,
            image=image.permute(1, 2, 0).numpy(),
        )


def _at_size(logits: Tensor, size: tuple[int, int], *, keep: bool) -> tuple[Tensor, Tensor | None]:
    """Scores (C, h, w), upsampled to H x W in blocks of rows -> classes (H, W) and probabilities (C, H, W)."""
    height, width = size
    class_map = torch.empty(size, dtype=torch.uint8, device=logits.device)
    probabilities = torch.empty(len(logits), *size, dtype=torch.float16, device=logits.device) if keep else None
    for top in range(0, height, ROWS_AT_ONCE):
        rows = torch.arange(top, min(height, top + ROWS_AT_ONCE), device=logits.device)
        block = _rows_at(logits, rows, height)
        if width != logits.shape[-1]:
            block = F.interpolate(block[None], size=(len(rows), width), mode="bilinear", align_corners=False)[0]
        class_map[rows] = block.max(dim=0).indices.to(torch.uint8)
        if probabilities is not None:
            probabilities[:, rows] = block.softmax(dim=0).half()
    return class_map, probabilities


def _rows_at(logits: Tensor, rows: Tensor, height: int) -> Tensor:
    """Rows of the scores (C, h, w) as they are once upsampled linearly to `height`: (C, len(rows), w)."""
    cells = logits.shape[-2]
    if cells == height:
        return logits[:, rows]
    position = ((rows + 0.5) * cells / height - 0.5).clamp(0, cells - 1)
    above = position.floor().long()
    weight = (position - above)[:, None]
    return torch.lerp(logits[:, above], logits[:, (above + 1).clamp(max=cells - 1)], weight.to(logits.dtype))
