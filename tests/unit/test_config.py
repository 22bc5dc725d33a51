"""Settings: flags over file, unknown keys and wrong values refused by name."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.amounts import kv_bytes
from cluster.config import load_config
from galerne.errors import ConfigError
from galerne.logs import LogSettings
from router.tracing.settings import TracingSettings


def test_flags_win_over_the_file_and_the_file_over_defaults(tmp_path):
    file = tmp_path / "serve.yaml"
    file.write_text("shards: 3\nmode: throughput\n")
    config = load_config(file, {"shards": 5, "mode": None})
    assert (config.shards, config.mode, config.gateways) == (5, "throughput", 1)


@pytest.mark.parametrize(
    ("fields", "key"),
    [
        ({"shrads": 4}, "shrads"),
        ({"mode": "fast"}, "mode"),
        ({"shards": 0}, "shards"),
        ({"http_port": 70_000}, "http_port"),
        ({"drain_s": -1}, "drain_s"),
        ({"log_level": "loud"}, "log_level"),
        ({"log_format": "xml"}, "log_format"),
        ({"http_port": 9000}, "grpc_port"),
        ({"grpc_port": 8000}, "grpc_port"),
        ({"dashboard_port": 8000}, "dashboard_port"),
        ({"ray_head_host": "10.0.0.1", "ray_head_port": 9000}, "ray_head.port"),
        ({"ray_head": {"host": "h", "port": 7000, "metrics_port": 7000}}, "ray_head.metrics_port"),
        ({"trace_endpoint": "collector:4317"}, "tracing.endpoint"),
        ({"trace_endpoint": "grpc://c:4317", "trace_slow_s": 0}, "tracing.slow_s"),
        ({"trace_slow_s": 2}, "tracing.endpoint"),
        ({"tracing": {"endpoint": "grpc://c:4317", "sampling": 1}}, "tracing.sampling"),
    ],
)
def test_a_wrong_setting_is_refused_by_its_key(fields, key):
    with pytest.raises(ConfigError) as caught:
        load_config(None, fields)
    assert caught.value.key == key


def test_ports_that_are_any_are_never_the_same():
    assert load_config(None, {"http_port": 0, "grpc_port": 0}).grpc_port == 0
    assert load_config(None, {"http_port": 9000, "grpc_port": 8000}).http_port == 9000


def test_flags_of_tls_join_the_mapping_of_the_file(tmp_path):
    file = tmp_path / "serve.yaml"
    file.write_text("tls: {cert: a.pem, key: a-key.pem}\n")
    config = load_config(file, {"tls_cert": "b.pem", "tls_client_ca": "ca.pem"})
    tls = config.tls
    assert list(map(str, (tls.cert, tls.key, tls.client_ca))) == ["b.pem", "a-key.pem", "ca.pem"]
    assert config.internal_tls is None
    with pytest.raises(ConfigError) as caught:
        load_config(None, {"internal_tls_cert": "a.pem"})
    assert caught.value.key == "internal_tls.key"


def test_traces_and_logs_are_as_flags_and_file_say_and_traces_off_by_default(tmp_path):
    file = tmp_path / "serve.yaml"
    file.write_text("tracing: {endpoint: 'grpc://a:1', slow_s: 3}\nlog_format: json\n")
    config = load_config(file, {"trace_endpoint": "http://b:2", "log_level": "info"})
    assert config.traces == TracingSettings(endpoint="http://b:2", slow_s=3)
    assert config.logs == LogSettings(format="json", level="info")
    assert load_config(None, {}).traces is None


@pytest.mark.parametrize("text", ["[1, 2]", "shards: [", "nonsense"])
def test_a_file_that_is_no_mapping_is_refused(tmp_path, text):
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match="config"):
        load_config(file, {})


@pytest.mark.parametrize(
    ("setting", "want"),
    [
        ("0.3", 3 * 2**30),
        ("1", 10 * 2**30),
        ("2GiB", 2**31),
        ("500M", 500_000_000),
        ("64ki", 65536),
    ],
)
def test_kv_memory_is_a_fraction_or_an_amount(setting, want):
    assert kv_bytes(setting, 10 * 2**30) == want


@pytest.mark.parametrize("setting", ["", "many", "-1", "0", "11GiB", "1.5"])
def test_kv_memory_out_of_bounds_is_refused(setting):
    with pytest.raises(ConfigError, match="kv_memory"):
        kv_bytes(setting, 10 * 2**30)


@given(st.floats(0.001, 1.0), st.integers(10_000, 2**40))
def test_a_fraction_never_exceeds_what_there_is(fraction, available):
    assert 0 < kv_bytes(f"{fraction:.3f}", available) <= available
