"""Benchmark of a model: images per second by engine, precision, batch size and image size.

N images in a batch, H W image height and width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import numpy as np

from upscore.errors import UserError
from upscore.inference.engines import EngineName, Precision
from upscore.inference.engines.session import POSSIBLE, has_bfloat16, resolve_engine
from upscore.inference.load import load
from upscore.inference.model import Model
from upscore.progress import ProgressCallback, ignore_progress
from upscore.results import InstanceResult
from upscore.timing import time_interleaved

ROUNDS = 5
"""Default number of timed calls of each setting."""
PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16", "int8")


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """Configuration in which a model is timed."""

    engine: str
    precision: str
    batch_size: int
    """Number of images N."""
    size: tuple[int, int]
    """Image size (H, W)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """Measured speed of one setting."""

    setting: Setting
    seconds: list[float]
    """Seconds per batch in each round."""
    objects: int | None
    """Number of objects detected in the image; None for semantic segmentation."""

    @property
    def images_per_second(self) -> float:
        """Images per second, from the median of the rounds."""
        return self.setting.batch_size / median(self.seconds)

    def to_json(self) -> dict[str, Any]:
        """Return the fields as a JSON-compatible dictionary."""
        setting = asdict(self.setting)
        height, width = setting.pop("size")
        return {
            **setting,
            "height": height,
            "width": width,
            "images_per_second": self.images_per_second,
            "seconds": self.seconds,
            "objects": self.objects,
        }


@dataclass(frozen=True, slots=True)
class SkippedSetting:
    """Engine and precision that cannot run on this machine, with the reason."""

    engine: str
    precision: str
    reason: str


def load_variants(
    source: str, engines: Sequence[EngineName], precisions: Sequence[Precision] | None = None
) -> tuple[dict[tuple[str, str], Model], list[SkippedSetting]]:
    """Load a model once for each engine and precision that can run on this machine.

    Args:
        source: see `upscore.load`.
        engines: engines to load; "auto" is the choice of `upscore.load`.
        precisions: precisions to load, likewise; None: all, but bfloat16 only if this machine has instructions for it.

    Returns:
        The models by engine and precision, and the combinations that were skipped.

    Raises:
        UserError: the model cannot be loaded with any combination.
    """
    models: dict[tuple[str, str], Model] = {}
    skipped: list[SkippedSetting] = []
    for engine in engines:
        for precision in precisions or PRECISIONS:
            if engine in POSSIBLE and precision not in ("auto", *POSSIBLE[engine]):
                continue
            try:
                if (
                    precisions is None
                    and precision == "bfloat16"
                    and not has_bfloat16(resolve_engine(engine, precision))
                ):
                    raise UserError(
                        "this machine has no bfloat16 instructions: --precision bfloat16 measures it anyway"
                    )
                model = load(source, engine=engine, precision=precision)
                _ = model.session  # raises UserError if the engine is not installed
            except UserError as error:
                skipped.append(SkippedSetting(engine, precision, str(error)))
                continue
            models.setdefault((model.engine, model.precision), model)
    if not models:
        reasons = dict.fromkeys(setting.reason for setting in skipped)
        raise UserError(
            "; ".join(reasons) or f"{', '.join(engines)} does not support {', '.join(precisions or PRECISIONS)}"
        )
    return models, skipped


def measure_speed(
    models: dict[tuple[str, str], Model],
    images: Sequence[np.ndarray],
    batch_sizes: Sequence[int] = (1,),
    *,
    rounds: int = ROUNDS,
    progress: ProgressCallback = ignore_progress,
) -> list[Speed]:
    """Time `Model.predict` on images in memory, alternating between all settings.

    Args:
        models: models by engine and precision, see `load_variants`.
        images: (H, W, 3) uint8, RGB, one for each image size. A batch repeats the same image.
        batch_sizes: numbers of images in a batch.
        rounds: number of timed calls of each setting, after one warm-up call.
        progress: called with the number of finished calls.
    """
    objects: dict[Setting, int | None] = {}

    def call(setting: Setting, model: Model, image: np.ndarray) -> Callable[[], None]:
        batch = [image] * setting.batch_size
        depth = np.ones((model.depth_channels, *setting.size), np.float32)
        depths = [depth] * setting.batch_size if model.depth_channels else None

        def run() -> None:
            result = model.predict(batch, depth=depths)[0]
            objects[setting] = len(result) if isinstance(result, InstanceResult) else None

        return run

    calls: dict[Setting, Callable[[], None]] = {}
    for (engine, precision), model in models.items():
        model.warmup(*((image.shape[0], image.shape[1]) for image in images))
        for image in images:
            for batch_size in batch_sizes:
                size = image.shape[0], image.shape[1]
                setting = Setting(engine=engine, precision=precision, batch_size=batch_size, size=size)
                calls[setting] = call(setting, model, image)
    seconds = time_interleaved(calls, rounds, progress=progress)
    return [Speed(setting=setting, seconds=seconds[setting], objects=objects[setting]) for setting in calls]
