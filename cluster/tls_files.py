"""TLS of our own clients: the files that variables of the environment name."""

from __future__ import annotations

import os

_VARIABLES = {"ca": "GALERNE_TLS_CA", "key": "GALERNE_TLS_KEY", "cert": "GALERNE_TLS_CERT"}


def tls_of_environment() -> dict[str, str]:
    """Paths by ``ca``, ``key`` and ``cert``; empty: not set."""
    return {name: os.environ.get(variable, "") for name, variable in _VARIABLES.items()}


def missing_half() -> str:
    """The variable that is not set although it goes with one that is; gRPC would abort. Or none."""
    files = tls_of_environment()
    lacks = [name for name in ("key", "cert") if not files[name]]
    return _VARIABLES[lacks[0]] if len(lacks) == 1 else ""
