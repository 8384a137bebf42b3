"""Measurements, DataFrames, GeoJSON and supervision Detections of results."""

import json
import sys
from dataclasses import replace

import numpy as np
import pytest
import shapely
from scipy import ndimage
from skimage.measure import regionprops_table

from upscore.errors import UserError
from upscore.results import InstanceResult, SemanticResult

SIZE = (64, 80)


@pytest.fixture
def result():
    """Two overlapping objects with holes and several parts, and one object outside the image."""
    random = np.random.default_rng(0)
    masks = ndimage.gaussian_filter(random.random((3, 28, 28)), (0, 2, 2)).astype(np.float32)
    return InstanceResult(
        boxes=np.array([[3, 4, 40, 50], [20.5, 10, 75, 60], [200, 200, 210, 210]], np.float32),
        scores=np.array([0.9, 0.8, 0.7], np.float32),
        labels=np.array([1, 0, 1]),
        masks=list(masks),
        size=SIZE,
        classes=["cell", "nerve"],
        image=random.integers(0, 255, (*SIZE, 3), np.uint8),
    )


def test_measurements_equal_those_of_scikit_image_on_the_whole_image(result):
    """The objects overlap; coordinates are those of the image."""
    table = result.measurements()
    bitmasks = result.bitmasks()
    assert (bitmasks[0] & bitmasks[1]).any()
    properties = ("area", "centroid", "bbox", "perimeter", "eccentricity", "equivalent_diameter_area", "solidity")
    for k in range(2):
        expected = regionprops_table(
            bitmasks[k].astype(np.uint8),
            result.image,
            properties=(*properties, "orientation", "axis_major_length", "intensity_mean", "intensity_max"),
        )
        assert expected.keys() <= table.keys()
        assert {name: table[name][k] for name in expected} == pytest.approx({n: v[0] for n, v in expected.items()})
    assert table["label"].tolist() == [1, 2, 3]
    assert table["class_name"].tolist() == ["nerve", "cell", "nerve"]
    assert table["area"].tolist() == result.areas().tolist()
    assert table["area"][2] == 0
    assert np.isnan(table["centroid-0"][2])


def test_selected_measurements(result):
    table = result.measurements(["label", "area", "centroid_weighted", "intensity_min"])
    assert table["label"].tolist() == [1, 2, 3]
    expected = regionprops_table(result.bitmasks()[1].astype(np.uint8), result.image, properties=("centroid_weighted",))
    assert {name: table[name][1] for name in expected} == pytest.approx({n: v[0] for n, v in expected.items()})
    grey = replace(result, image=result.image[..., 0]).measurements(["intensity_mean"])
    assert grey["intensity_mean"][0] == pytest.approx(result.image[..., 0][result.bitmasks()[0]].mean())
    with pytest.raises(UserError, match="intensity_mean needs the image"):
        replace(result, image=None).measurements(["area", "intensity_mean"])
    with pytest.raises(UserError, match="colour"):
        result.measurements(["colour"])
    assert not any("intensity" in name for name in replace(result, image=None).measurements())


def test_measurements_that_are_not_numbers(result):
    names = ("coords", "coords_scaled", "slice", "image", "moments")
    table = result.measurements(names)
    bitmasks = result.bitmasks()
    for k in range(2):
        assert np.array_equal(table["coords"][k], np.argwhere(bitmasks[k]))
        assert np.array_equal(table["coords_scaled"][k], np.argwhere(bitmasks[k]))
        assert np.array_equal(bitmasks[k][table["slice"][k]], table["image"][k])
    assert np.isnan(table["coords"][2])
    same = result[np.array([0, 0])].measurements(["coords", "image"])
    assert [len(column) for column in same.values()] == [2] * 6


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_former_names_of_properties(result):
    names = {"Area": "area", "num_pixels": "area", "Centroid-1": "centroid-1", "BoundingBox-0": "bbox-0"}
    table = result.measurements(["Area", "num_pixels", "Centroid", "BoundingBox"])
    for former, name in names.items():
        assert np.array_equal(table[former], result.measurements()[name], equal_nan=True), former
    assert table["Area"][2] == table["num_pixels"][2] == 0


@pytest.mark.parametrize("properties", ["area", 5, [3], [None], ["area", ("bbox",)], ["_slice"], ["colour"]])
def test_invalid_properties(result, properties):
    with pytest.raises(UserError, match=r"properties=.*regionprops"):
        result.measurements(properties)


def test_measurements_of_an_empty_result_have_the_same_columns(result):
    empty = result[:0].measurements()
    assert list(empty) == list(result.measurements())
    assert {len(column) for column in empty.values()} == {0}


def test_dataframes(result):
    pytest.importorskip("pandas")
    frame = result.to_dataframe(["area", "centroid"])
    assert list(frame.columns) == ["label", "class_id", "class_name", "score", "area", "centroid-0", "centroid-1"]
    assert frame.area.tolist() == result.areas().tolist()
    class_map = np.array([[0, 1, 1], [1, 255, 1]], np.uint8)
    frame = SemanticResult(class_map=class_map, classes=["sky", "sea", "land"]).to_dataframe()
    assert frame.area.tolist() == [1, 4, 0]
    assert frame.area_fraction.tolist() == pytest.approx([1 / 6, 4 / 6, 0])


@pytest.mark.parametrize("package", ["pandas", "supervision"])
def test_a_missing_package_is_an_error_with_the_install_command(result, package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=f"pip install {package}"):
        result.to_dataframe() if package == "pandas" else result.to_supervision()


@pytest.mark.filterwarnings("ignore:OpenCV")
def test_to_supervision(result):
    supervision = pytest.importorskip("supervision")
    detections = result.to_supervision()
    assert isinstance(detections, supervision.Detections)
    assert np.array_equal(detections.xyxy, result.boxes)
    assert np.array_equal(detections.mask, result.bitmasks())
    assert detections.class_id.tolist() == [1, 0, 1]
    assert detections.confidence.tolist() == result.scores.tolist()
    assert detections.data["class_name"].tolist() == ["nerve", "cell", "nerve"]
    assert len(detections[detections.confidence > 0.75]) == 2
    assert len(result[:0].to_supervision()) == 0


def pixels(geometry, size):
    """Return the pixels whose centres lie in a geometry."""
    rows, columns = np.indices(size)
    return shapely.contains_xy(geometry, columns + 0.5, rows + 0.5)


def closed_and_oriented(geometry):
    """Return whether rings are closed, exteriors counterclockwise and holes clockwise."""
    parts = geometry["coordinates"] if geometry["type"] == "MultiPolygon" else [geometry["coordinates"]]
    assert geometry["type"] == "Polygon" or len(parts) > 1
    rings = [(ring, hole > 0) for part in parts for hole, ring in enumerate(part)]
    return all(ring[0] == ring[-1] and shapely.LinearRing(ring).is_ccw != hole for ring, hole in rings)


def test_geojson_of_objects(result):
    collection = json.loads(json.dumps(result.to_geojson()))
    assert collection["type"] == "FeatureCollection"
    assert "crs" not in collection
    assert len(collection["features"]) == 2  # one object has no pixels
    for feature, bitmask in zip(collection["features"], result.bitmasks(), strict=False):
        assert closed_and_oriented(feature["geometry"])
        geometry = shapely.from_geojson(json.dumps(feature["geometry"]))
        assert geometry.is_valid
        assert np.array_equal(pixels(geometry, SIZE), bitmask)
    properties = collection["features"][0]["properties"]
    assert properties["objectType"] == "detection"
    assert properties["classification"]["name"] == "nerve"
    assert len(properties["classification"]["color"]) == 3
    assert properties["measurements"] == pytest.approx({"score": 0.9, "area": result.areas()[0]})


def test_geojson_of_classes():
    class_map = (ndimage.gaussian_filter(np.random.default_rng(1).random(SIZE), 3) > 0.5).astype(np.uint8)
    class_map[:9, :9] = 2
    result = SemanticResult(class_map=class_map, classes=["background", "sea", "land", "none"])
    features = result.to_geojson()["features"]
    assert [feature["properties"]["classification"]["name"] for feature in features] == ["sea", "land"]
    for label, feature in enumerate(features, start=1):
        assert closed_and_oriented(feature["geometry"])
        geometry = shapely.from_geojson(json.dumps(feature["geometry"]))
        assert np.array_equal(pixels(geometry, SIZE), class_map == label)
        assert feature["properties"]["measurements"]["area"] == (class_map == label).sum()
    named = replace(result, classes=["sky", "sea", "land", "none"]).to_geojson()["features"]
    assert [feature["properties"]["classification"]["name"] for feature in named] == ["sky", "sea", "land"]


class Scaled:
    """Georeference with pixels of 10 m, north up."""

    epsg: int | None = 32633

    def to_map(self, points):
        return np.array([500_000.0, 5_000_000.0]) + points * np.array([10.0, -10.0])


def test_geojson_in_map_coordinates(result):
    collection = result.to_geojson(georeference := Scaled())
    assert collection["crs"]["properties"]["name"] == "urn:ogc:def:crs:EPSG::32633"
    for feature, plain in zip(collection["features"], result.to_geojson()["features"], strict=True):
        assert closed_and_oriented(feature["geometry"])
        on_map, shape = (shapely.from_geojson(json.dumps(f["geometry"])) for f in (feature, plain))
        expected = shapely.transform(shape, georeference.to_map)
        assert on_map.equals(expected)
    georeference.epsg = 4326  # WGS 84, the default of GeoJSON
    assert "crs" not in result.to_geojson(georeference)


def test_repr_and_picture_of_a_semantic_result():
    class_map = np.array([[0, 1, 1, 1], [1, 1, 255, 1]], np.uint8)
    result = SemanticResult(class_map=class_map, classes=["sky", "sea"])
    assert repr(result) == "SemanticResult(4x2 pixels: sea 75%, sky 12%, 255 12%)"
    assert result.size == (2, 4)
    assert result._repr_png_().startswith(b"\x89PNG")
    with pytest.raises(UserError, match=r"result\.image"):
        result.overlay()
