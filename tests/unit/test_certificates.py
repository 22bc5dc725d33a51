"""``galerne certs``: files that fit, for their user alone, and nothing overwritten."""

import ssl
import stat
from datetime import UTC, datetime

import pytest
from typer.testing import CliRunner

from cluster.certificates import read_authorities, read_identity
from cluster.cli.app import app
from cluster.cli.client import connect
from galerne.errors import ConfigError


def test_certs_makes_what_serve_takes_and_overwrites_nothing(tmp_path):
    made = tmp_path / "certs"
    said = CliRunner().invoke(app, ["certs", str(made), "--host", "llm.example", "--days", "3"])
    assert said.exit_code == 0, said.output
    assert f"--tls-cert {made}/server.pem" in said.output
    for name in ("server", "client", "internal"):
        now = datetime.now(tz=UTC)
        identity = read_identity("tls", made / f"{name}.pem", made / f"{name}-key.pem", now)
        assert 2 <= (identity.expires - now).days <= 3
        ssl.create_default_context(cafile=made / "ca.pem").load_cert_chain(
            made / f"{name}.pem", made / f"{name}-key.pem"
        )
    assert read_authorities("tls.client_ca", made / "ca.pem")
    assert {stat.S_IMODE(file.stat().st_mode) for file in made.iterdir()} == {0o600}
    before = (made / "ca.pem").read_bytes()
    again = CliRunner().invoke(app, ["certs", str(made)])
    assert isinstance(again.exception, ConfigError)
    assert (made / "ca.pem").read_bytes() == before


def test_certs_writes_nothing_where_one_of_its_files_is_there_already(tmp_path):
    """Half of another CA's files would fit nothing."""
    (tmp_path / "internal.pem").write_bytes(b"theirs")
    said = CliRunner().invoke(app, ["certs", str(tmp_path)])
    assert isinstance(said.exception, ConfigError)
    assert "internal.pem" in str(said.exception)
    assert [file.name for file in tmp_path.iterdir()] == ["internal.pem"]


def test_a_name_that_no_certificate_can_have_is_refused_by_its_flag(tmp_path):
    said = CliRunner().invoke(app, ["certs", str(tmp_path / "new"), "--host", "münchen.example"])
    assert isinstance(said.exception, ConfigError)
    assert said.exception.key == "host"
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("variables", "key"),
    [
        ({"CA": "/nowhere/ca.pem"}, "GALERNE_TLS_CA"),
        ({"CERT": "/nowhere/c.pem", "KEY": "/nowhere/k.pem"}, "GALERNE_TLS_KEY"),
        ({"CERT": __file__}, "GALERNE_TLS_KEY"),
        ({"KEY": __file__}, "GALERNE_TLS_CERT"),
    ],
)
def test_files_of_a_client_that_cannot_be_used_are_refused_by_their_variable(
    variables, key, monkeypatch
):
    for name in ("CA", "CERT", "KEY"):
        monkeypatch.setenv(f"GALERNE_TLS_{name}", variables.get(name, ""))
    with pytest.raises(ConfigError) as caught, connect("grpcs://127.0.0.1:9"):
        pass
    assert caught.value.key == key
