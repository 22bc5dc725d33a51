"""Arguments of the Serve application: what they mean, and what is refused."""

import pytest

from cluster.application import settings_of
from cluster.config import ServeConfig
from galerne.errors import ConfigError


def test_arguments_are_the_settings_of_serve_and_win_over_the_file(tmp_path):
    file = tmp_path / "galerne.yaml"
    file.write_text("shards: 2\ndrain-s: 5\n")
    told = settings_of({"config": str(file), "shards": 4, "autoscaler": {"tick_s": 2.0}})
    assert (told.shards, told.drain_s, told.autoscaler.tick_s) == (4, 5.0, 2.0)
    assert settings_of({}) == ServeConfig()


@pytest.mark.parametrize(
    ("args", "named"),
    [
        ({"shard": 4}, "shard"),
        ({"shards": 0}, "shards"),
        ({"mode": "fast"}, "mode"),
        ({"images": {"vision": {"no": 1}}}, "images"),
        ({"config": "/nowhere/galerne.yaml"}, "config"),
        ({"config": 5}, "config"),
    ],
)
def test_a_wrong_argument_is_refused_by_its_name(args, named):
    with pytest.raises(ConfigError, match=named):
        settings_of(args)


@pytest.mark.parametrize(
    "args",
    [
        {"host": "0.0.0.0"},
        {"http_port": 8000},
        {"grpc_port": 9000},
        {"address": "auto"},
        {"dashboard_port": 8265},
        {"ray_storage": "off"},
        {"tls": {"cert": "a", "key": "b"}},
    ],
)
def test_what_is_serves_or_rays_to_say_is_refused_even_where_it_says_the_same(args):
    with pytest.raises(ConfigError, match=next(iter(args))):
        settings_of(args)
