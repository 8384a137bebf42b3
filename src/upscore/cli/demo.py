"""`upscore demo`: what it does, on data that is built in."""

from __future__ import annotations

from pathlib import Path


def demo(*, output: Path = Path("demo"), seed: int = 0) -> None:
    """Show everything on data that is built in; ends in one HTML page.

    ```
    upscore demo
    upscore demo --output /tmp/demo
    ```

    Parameters
    ----------
    output
        The folder to write to.
    seed
        Other scenes and other random numbers.
    """
    from upscore.report.demo import run

    run(output, seed=seed)
