"""Download model folders from the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path

from upscore.errors import UserError
from upscore.text import first_line

HUB = "hf://"
"""Prefix of the address of a repository: hf://owner/name, or hf://owner/name@revision."""


def is_on_hub(source: str | Path) -> bool:
    """Return whether a source is the address of a repository, not a path."""
    return isinstance(source, str) and source.startswith(HUB)


def fetch_model(source: str, files: list[str]) -> Path:
    """Download files of a repository to the hub's cache, unless they are cached, and return their folder.

    Args:
        source: "hf://owner/name", or "hf://owner/name@revision" for a branch, a tag or a commit.
        files: the names of the files to download.

    Raises:
        UserError: the repository or the revision does not exist, or there is no connection.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    repository, _, revision = source.removeprefix(HUB).partition("@")
    try:
        return Path(snapshot_download(repository, revision=revision or None, allow_patterns=files))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise UserError(f"{source} can't be fetched: {first_line(error)}") from error
