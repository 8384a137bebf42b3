"""Model folders on the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path

from upscore.errors import UserError
from upscore.text import first_line

HUB = "hf://"
"""What the address of a repository begins with: hf://owner/name, or hf://owner/name@revision."""


def is_on_hub(source: str | Path) -> bool:
    """Whether a source is the address of a repository rather than a path."""
    return isinstance(source, str) and source.startswith(HUB)


def fetch_model(source: str, files: list[str]) -> Path:
    """Download files of a repository into the hub's cache, unless they are there; returns their folder.

    Args:
        source: "hf://owner/name", or "hf://owner/name@revision" for a branch, a tag or a commit.
        files: the names of the files; nothing else of the repository is downloaded.

    Raises:
        UserError: there is no such repository or revision, or no connection.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    repository, _, revision = source.removeprefix(HUB).partition("@")
    try:
        return Path(snapshot_download(repository, revision=revision or None, allow_patterns=files))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise UserError(f"{source} can't be fetched: {first_line(error)}") from error
