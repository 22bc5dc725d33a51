"""Arguments of the Serve application: what they mean, and what is refused."""

from types import SimpleNamespace

import pytest

from cluster import parts
from cluster.application import settings_of
from cluster.config import ServeConfig, load_config
from cluster.session_files import accounts_directory
from galerne.errors import ConfigError
from router.api.shared_accounts import SharedAccounts


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


def test_an_owner_that_ends_leaves_no_accounts_on_its_host(tmp_path, monkeypatch):
    """Names of deployments never come again: one directory of each would stay for ever."""
    monkeypatch.setattr("cluster.session_files.session_directory", lambda: tmp_path)
    monkeypatch.setattr(parts, "_TOLD_S", 0.0)
    identity = parts.Identity("galerne-1", "token")
    owner = SimpleNamespace(_config=load_config(None, {"drain_s": 0}), _identity=identity)
    SharedAccounts(accounts_directory("galerne-1")).close()
    SharedAccounts(accounts_directory("galerne-2")).close()
    done = []
    ending = SimpleNamespace(order_drain=lambda _: done.append("drain"), stop=done.append)
    parts.Parts._end(owner, ending)
    assert done == ["drain", 0.0]
    assert [path.name for path in tmp_path.iterdir()] == [accounts_directory("galerne-2").name]
