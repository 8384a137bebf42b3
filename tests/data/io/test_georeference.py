"""Map coordinates of pixels, compared with rasterio."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from upscore.data.io.georeference import Georeference, read_georeference
from upscore.errors import UserError


@pytest.mark.parametrize("point", [False, True])
def test_map_coordinates_equal_rasterios(tmp_path: Path, point: bool) -> None:
    rasterio = pytest.importorskip("rasterio", reason="the extra [geo] is not installed")
    pixels = np.array([[0.5, 0.5], [12.25, 30.0]])
    for turned in (False, True):
        matrix = np.array([[1.9, 0.7, 400_000], [1.1, -2.8, 5_000_000]] if turned else [[2, 0, 9], [0, -3, 7]], float)
        path = tmp_path / f"{turned}.tif"
        profile = {"driver": "GTiff", "height": 40, "width": 50, "count": 1, "dtype": "uint8"}
        with rasterio.open(path, "w", **profile, crs="EPSG:32633", transform=rasterio.Affine(*matrix.ravel())) as file:
            if point:
                file.update_tags(AREA_OR_POINT="Point")
        georeference = read_georeference(path)
        assert georeference is not None
        assert georeference.epsg == 32633
        assert georeference.to_map(pixels) == pytest.approx(pixels @ matrix[:, :2].T + matrix[:, 2], abs=1e-6)
    with pytest.raises(UserError, match="no transformation"):
        Georeference({34735: (1, 1, 0, 0)}).to_map(pixels)
