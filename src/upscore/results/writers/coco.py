"""Objects of many images in one file, in COCO's results format."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from upscore.errors import UserError
from upscore.files import atomic_path
from upscore.results.rle import areas

if TYPE_CHECKING:
    from upscore.results.instances import InstanceResult

RESULTS = "instances.json"
"""All objects of all images, one object a line."""

PART = ".instances.json.part"
"""Its name while it is being written; a killed process leaves it there."""


def coco_results(
    result: InstanceResult,
    *,
    image_id: int = 1,
    category_ids: Sequence[int] | None = None,
    file_name: str | None = None,
) -> list[dict[str, Any]]:
    """The objects of one image in COCO's results format; see `InstanceResult.to_coco`.

    Boxes and scores are unrounded, so that average precision is exactly that of the objects in memory. `area` is the
    number of the mask's pixels; pycocotools' `loadRes` replaces it by the area of `bbox` (see docs/results.md).

    Raises:
        UserError: the number of category ids is not that of the classes, or the image has 2 ** 32 pixels or more.
    """
    ids = category_ids or result.category_ids or range(1, len(result.classes) + 1)
    if len(ids) != len(result.classes):
        raise UserError(f"{len(ids)} category_ids for {len(result.classes)} classes: give one id for each class")
    named = {} if file_name is None else {"file_name": file_name}
    rles = result.rle()
    columns = (result.boxes.tolist(), result.scores.tolist(), result.labels.tolist(), rles, areas(rles).tolist())
    return [
        {
            "image_id": image_id,
            **named,
            "category_id": int(ids[label]),
            "category_name": result.classes[label],
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "area": area,
            "score": score,
            "segmentation": encoded,
        }
        for (x1, y1, x2, y2), score, label, encoded, area in zip(*columns, strict=True)
    ]


def require_results(path: Path) -> None:
    """Make sure that results may be written there.

    Raises:
        UserError: a data set's labels are there.
    """
    if not path.is_file():
        return
    with path.open("rb") as file:
        if file.read(1) != b"[":  # a data set of COCO's is no list
            raise UserError(f"{path} holds no results and would be overwritten: choose another --output")


class ResultsFile:
    """`instances.json` of a folder, photo by photo: a context that puts it in its place when it ends, well or not.

    Args:
        output: the folder.
        keep: image ids by `file_name`: begin with the objects that an earlier run found in these photos, under these
            ids. None: begin anew.

    Raises:
        UserError: it can't be read or written.
    """

    def __init__(self, output: Path, *, keep: Mapping[str, int] | None = None) -> None:
        self.path, self._part = output / RESULTS, output / PART
        self.kept: dict[str, int] = {}
        """The number of objects that were there, by `file_name`; photos without any are not among them."""
        self._lines = 0
        try:
            output.mkdir(parents=True, exist_ok=True)
            if keep is not None:
                self._keep(keep)
            self._file = self._part.open("w" if keep is None else "a", encoding="utf-8")
        except OSError as error:
            raise self._cannot_write(error) from error

    def add(self, results: list[dict[str, Any]]) -> None:
        """Append the objects of one photo, all at once."""
        try:
            self._file.write(self._text(results))
            self._file.flush()
        except OSError as error:
            raise self._cannot_write(error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            with self._file:
                self._file.write("\n]\n" if self._lines else "[]\n")
            self._part.replace(self.path)
        except OSError as error:
            raise self._cannot_write(error) from error

    def _keep(self, image_ids: Mapping[str, int]) -> None:
        earlier = self._part if self._part.is_file() else self.path
        with atomic_path(self._part) as temporary, temporary.open("w", encoding="utf-8") as file:
            for results in _by_photo(earlier) if earlier.is_file() else ():
                name = str(results[0].get("file_name"))
                if name in image_ids:
                    file.write(self._text([result | {"image_id": image_ids[name]} for result in results]))
                    self.kept[name] = len(results)

    def _text(self, results: list[dict[str, Any]]) -> str:
        lines = []
        for result in results:
            lines.append((",\n" if self._lines else "[\n") + json.dumps(result))
            self._lines += 1
        return "".join(lines)

    def _cannot_write(self, error: OSError) -> UserError:
        return UserError(f"{self.path}: can't be written ({error.strerror or error})")


def _by_photo(path: Path) -> Iterator[list[dict[str, Any]]]:
    """The objects of each photo; where the file was cut off, those of the last one, which may lack some, are left."""
    results: list[dict[str, Any]] = []
    with path.open(encoding="utf-8") as file:
        for line in file:
            if line.startswith("]") and results:
                yield results
            if not line.startswith("{"):
                continue
            try:
                result = json.loads(line.rstrip().removesuffix(","))
            except ValueError:
                return
            if results and result.get("file_name") != results[0].get("file_name"):
                yield results
                results = []
            results.append(result)


def write_results(results: list[dict[str, Any]], output: Path) -> None:
    """Write `instances.json` into the folder `output`, an object a line.

    Raises:
        UserError: it can't be written.
    """
    with ResultsFile(output) as file:
        file.add(results)
