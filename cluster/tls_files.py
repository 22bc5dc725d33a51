"""TLS of our own clients: the files that variables of the environment name."""

from __future__ import annotations

import os

_VARIABLES = {"ca": "GALERNE_TLS_CA", "key": "GALERNE_TLS_KEY", "cert": "GALERNE_TLS_CERT"}


def tls_of_environment() -> dict[str, str]:
    """Paths by ``ca``, ``key`` and ``cert``; empty: not set."""
    return {name: os.environ.get(variable, "") for name, variable in _VARIABLES.items()}
