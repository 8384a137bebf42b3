"""upscore heatmap: where in a photo is the tiger cat?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from upscore.errors import UserError


def heatmap(
    photo: Path,
    /,
    *,
    label: Annotated[list[str] | None, Parameter(negative=())] = None,
    backbone: str = "efficientnet_lite0",
    weights: Path | None = None,
    scale: float | None = None,
    output: Path | None = None,
) -> None:
    """Show where a photo looks like a class of ImageNet to an ordinary classifier.

    The classifier is made convolutional, as an FCN is, and slides over the
    photo. It was never told where anything is: the heat is a probability
    around each pixel, not an outline.

    ```
    upscore heatmap photo.jpg
    upscore heatmap photo.jpg --label "tiger cat"
    upscore heatmap photo.jpg --label tabby --label "Egyptian cat"
    upscore heatmap photo.jpg --backbone vgg16 --weights vgg16.pth
    ```

    Parameters
    ----------
    photo
        The photo, in any common format.
    label
        What to look for, by any of its ImageNet names; several are taken
        together. The photo's most probable class by default.
    backbone
        efficientnet_lite0, a classifier of torchvision, or timm/NAME.
    weights
        A local file (.pth, .safetensors) of the backbone's weights, for
        machines that can't fetch them.
    scale
        The size at which the photo is looked at, 1 or more: larger finds
        smaller things. 1.25 by default, 2 for VGG and AlexNet.
    output
        The picture to write; PHOTO_heatmap.png by default.
    """
    from upscore.files import require_writable_file

    output = output or photo.with_name(f"{photo.stem}_heatmap.png")
    if output.suffix.lower() not in {".png", ".jpg", ".jpeg", ".webp"}:
        raise UserError(f"--output {output} must end in .png, .jpg or .webp")
    require_writable_file(output, "choose another --output")
    if output.exists() and photo.exists() and output.samefile(photo):
        raise UserError(f"--output {output} is the photo itself: choose another name")

    from rich.table import Table

    from upscore.console import Console
    from upscore.data.io.images import read_image
    from upscore.files import atomic_path
    from upscore.inference.heatmap import heat_map
    from upscore.models.classifiers.imagenet import imagenet_classifier
    from upscore.viz.overlays import heat_overlay

    image = read_image(photo)
    found = heat_map(imagenet_classifier(backbone, weights), image, label or (), scale)
    title = f"{found.label}: up to {found.heat.max():.0%}"
    picture = heat_overlay(image.permute(1, 2, 0).numpy(), found.heat, title)
    with atomic_path(output) as temporary:
        picture.save(temporary)

    table = Table("the whole photo", "probability", box=None, pad_edge=False)
    table.columns[1].justify = "right"
    for name, probability in found.top:
        table.add_row(name, f"{probability:.1%}")
    console = Console()
    console.print(table)
    console.print(f"\n{title}\n{output}", soft_wrap=True)
