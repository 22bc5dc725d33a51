"""``galerne certs``: files that fit, for their user alone, and nothing overwritten."""

import ssl
import stat
from datetime import UTC, datetime

from typer.testing import CliRunner

from cluster.certificates import read_authorities, read_identity
from cluster.cli.app import app
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
