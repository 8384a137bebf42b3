"""`upscore heatmap`: draw a heat map of an ImageNet class over an image."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from upscore.errors import UserError


def heatmap(
    image: Path,
    /,
    *,
    label: Annotated[list[str] | None, Parameter(negative=())] = None,
    backbone: str = "efficientnet_lite0",
    weights: Path | None = None,
    scale: float | None = None,
    output: Path | None = None,
) -> None:
    """Draw a heat map of an ImageNet class over an image.

    The fully connected layers of a classifier are converted into
    convolutions, as in an FCN. The classifier was trained without locations:
    the heat is the probability of the class around each pixel, not an
    outline of the object.

    ```
    upscore heatmap photo.jpg
    upscore heatmap photo.jpg --label "tiger cat"
    upscore heatmap photo.jpg --label tabby --label "Egyptian cat"
    upscore heatmap photo.jpg --backbone vgg16 --weights vgg16.pth
    ```

    Parameters
    ----------
    image
        The image, in any common format.
    label
        The class, by any of its ImageNet names; the probabilities of several
        are added. By default the most probable class of the image.
    backbone
        efficientnet_lite0, a classifier of torchvision, or timm/NAME.
    weights
        A local file (.pth, .safetensors) with the backbone's weights, for
        machines without network access.
    scale
        Factor by which the image is resized, 1 or more: larger factors find
        smaller objects. 1.25 by default, 2 for VGG and AlexNet.
    output
        The picture to write; by default NAME_heatmap.png in the working
        directory.
    """
    from upscore.files import require_writable_file

    output = output or Path(f"{image.stem}_heatmap.png")
    if output.suffix.lower() not in {".png", ".jpg", ".jpeg", ".webp"}:
        raise UserError(f"--output {output} is not an image file: use a name that ends in .png, .jpg or .webp")
    require_writable_file(output, "choose another --output")
    if output.exists() and image.exists() and output.samefile(image):
        raise UserError(f"--output {output} is the input image: choose another name")

    from rich.table import Table

    from upscore.console import Console
    from upscore.data.io.images import read_image
    from upscore.files import atomic_path
    from upscore.inference.heatmap import heat_map
    from upscore.models.classifiers.imagenet import imagenet_classifier
    from upscore.viz.overlays import heat_overlay

    pixels = read_image(image)
    result = heat_map(imagenet_classifier(backbone, weights), pixels, label or (), scale)
    title = f"{result.label}: up to {result.heat.max():.0%}"
    picture = heat_overlay(pixels.permute(1, 2, 0).numpy(), result.heat, title)
    with atomic_path(output) as temporary:
        picture.save(temporary)

    table = Table("the whole image", "probability", box=None, pad_edge=False)
    table.columns[1].justify = "right"
    for name, probability in result.top:
        table.add_row(name, f"{probability:.1%}")
    console = Console()
    console.print(table)
    console.print(f"\n{title}\n{output}", soft_wrap=True)
