"""Helpers that write small COCO data sets."""

import json

from tests.data.layouts import write_image

CATEGORIES = [{"id": 7, "name": "dog"}, {"id": 2, "name": "cat"}]


def square(x, y, side):
    return [x, y, x + side, y, x + side, y + side, x, y + side]


def annotation(number, image, outline, **changes):
    entry = {"id": number, "image_id": image, "category_id": 7, "iscrowd": 0, "segmentation": outline}
    return entry | {"bbox": [1, 1, 4, 4], "area": 16.0} | changes


def image(number, name=None, height=20, width=30):
    return {"id": number, "file_name": name or f"{number}.png", "height": height, "width": width}


def write(path, images, annotations, categories=CATEGORIES):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return path


def small(root, name="annotations.json", numbers=(5, 3)):
    """Write two images: the first with overlapping squares of two classes, the second without objects."""
    for number in numbers:
        write_image(root / "images" / f"{number}.png", 20, 30)
    annotations = [
        annotation(11, numbers[0], [square(2, 2, 8)], bbox=[2, 2, 8.5, 8], area=64),
        annotation(10, numbers[0], [square(6, 6, 8)], category_id=2),
    ]
    return write(root / name, [image(number) for number in numbers], annotations)
