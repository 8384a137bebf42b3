"""`upscore demo`: run models on the images that come with the package, and write an HTML page."""

from __future__ import annotations

from pathlib import Path


def demo(*, output: Path = Path("demo"), seed: int = 0) -> None:
    """Run models on the images that come with the package; write an HTML page.

    ```
    upscore demo
    upscore demo --output /tmp/demo
    ```

    The demo finds nuclei in microscope images with the built-in model,
    trains a Mask R-CNN on 40 of them, computes heat maps of an image
    classifier, and trains FCN-32s, 16s and 8s on generated scenes. Nothing
    is downloaded. It takes about six minutes on two cores.

    Parameters
    ----------
    output
        The folder to write to: report.html, images/ and the networks.
    seed
        Random seed of the training and of the scenes.
    """
    import sys

    # before the imports, which take seconds
    print(f"upscore demo: takes about six minutes, downloads nothing, writes to {output}", file=sys.stderr)

    from upscore.demo.run import run

    run(output, seed=seed)
