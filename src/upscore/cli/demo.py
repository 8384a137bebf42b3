"""`upscore demo`: what it does, on data that is built in."""

from __future__ import annotations

from pathlib import Path


def demo(*, output: Path = Path("demo"), seed: int = 0) -> None:
    """Show everything on data that is built in; ends in one HTML page.

    ```
    upscore demo
    upscore demo --output /tmp/demo
    ```

    It finds a cat with a photo classifier, trains FCN-32s, 16s and 8s and
    Mask R-CNN on generated scenes, and compares them. Nothing is fetched.
    It takes about five minutes on two cores; the same command begins afresh.

    Parameters
    ----------
    output
        The folder to write to: report.html, images/ and the networks.
    seed
        Other scenes and other random numbers.
    """
    import sys

    # before the imports, which take long
    print(f"upscore demo: a few minutes, nothing is fetched, all goes to {output}", file=sys.stderr)

    from upscore.report.demo import run

    run(output, seed=seed)
