"""A calibration comes back as it was, and is refused for another version or model."""

import json
from dataclasses import replace

import pytest

from cluster.doctor.store import default_path, load, save
from galerne.errors import ConfigError
from helpers.calibrations import BF16, SHAPE, stored
from shards.kernels.formats import WeightFormat


def test_calibration_comes_back_as_it_was(tmp_path):
    path = tmp_path / "deep" / "c.json"
    save(stored(), path)
    assert load(path, SHAPE, BF16, BF16) == stored()
    assert list(path.parent.iterdir()) == [path]


def test_another_version_is_refused_by_name(tmp_path):
    path = tmp_path / "c.json"
    save(stored(), path)
    told = json.loads(path.read_text())
    path.write_text(json.dumps(told | {"version": 99}))
    with pytest.raises(ConfigError, match=r"calibration\.version=99: must be 2: measure"):
        load(path, SHAPE, BF16, BF16)


def test_older_file_says_to_measure_again(tmp_path):
    path = tmp_path / "c.json"
    save(stored(), path)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"version": 1}))
    with pytest.raises(ConfigError, match=r"calibration\.version=1: .* measure again with galerne"):
        load(path, SHAPE, BF16, BF16)


def test_curve_that_falls_is_refused_by_its_field(tmp_path):
    path = tmp_path / "c.json"
    save(stored(), path)
    told = json.loads(path.read_text())
    told["calibration"]["gateway"]["head"] = {"knots": [[1, 2e-3], [4, 1e-3]]}
    path.write_text(json.dumps(told))
    with pytest.raises(ConfigError, match="head: knots"):
        load(path, SHAPE, BF16, BF16)


def test_another_shape_is_refused_by_its_field(tmp_path):
    path = tmp_path / "c.json"
    save(stored(), path)
    with pytest.raises(ConfigError, match=r"calibration\.shape\.num_layers=6"):
        load(path, replace(SHAPE, num_layers=7), BF16, BF16)


def test_another_format_is_refused_by_its_field(tmp_path):
    path = tmp_path / "c.json"
    save(stored(), path)
    with pytest.raises(ConfigError, match=r"calibration\.dense=bf16"):
        load(path, SHAPE, BF16, WeightFormat.INT8)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"version": 1}'])
def test_file_that_is_none_is_refused(tmp_path, text):
    path = tmp_path / "c.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match="calibration"):
        load(path, SHAPE, BF16, BF16)


def test_missing_file_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="calibration"):
        load(tmp_path / "none.json", SHAPE, BF16, BF16)


def test_default_path_lies_in_the_cache_directory(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path = default_path("host/../x", SHAPE, BF16, WeightFormat.INT4)
    assert path.parent == tmp_path / "galerne" / "calibration"
    assert path.name.endswith("-bf16-int4.json")
