"""Galerne as a Ray Serve application, for ``serve deploy``, ``serve run`` and KubeRay's RayService.

    applications:
    - name: galerne
      import_path: cluster.application:build
      route_prefix: /
      args: {config: /etc/galerne/galerne.yaml, shards: 4}

The arguments are the settings of ``galerne serve``, inline or in the file that ``config`` names;
inline ones win. Where clients connect is Serve's affair, and Ray is there already: settings of both
are refused.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from cluster.config import ServeConfig, load_config
from cluster.ingress.leaving import SILENT_AFTER_S
from cluster.ingress.settings import api_limits, ingress_settings
from cluster.ingress.starting import frontend_app
from cluster.named_files import checkpoint_directory, internal_tls, tokenizer_directory
from cluster.parts import Identity, parts_app
from galerne.errors import ConfigError
from shards.cores import available_cores

_NOT_OURS = {
    "host": "is set in Serve's http_options",
    "http_port": "is set in Serve's http_options",
    "grpc_port": "is set in Serve's grpc_options",
    "tls": "cannot be had from Serve: end TLS in front of it",
    "address": "is the cluster that Serve runs on",
    "ray_head": "is set where Ray is started",
    "ray_storage": "is set where Ray is started",
    "dashboard_port": "is set where Ray is started",
}
_FRONTEND_MARGIN_S = 30.0  # that a frontend waits longer than the parts may take
_FRONTEND_STOP_S = 10.0 + SILENT_AFTER_S  # beyond the time to drain; a Watch ends after silence


def build(args: dict[str, Any]) -> Any:  # noqa: ANN401 - ``serve.Application``
    """The application, with names and a token of its own: no two builds meet in one cluster.

    Args:
        args: Names of ``ServeConfig``, and ``config``: a YAML file of them.

    Raises:
        ConfigError: A setting is wrong, or not for an application; names it.
    """
    config = settings_of(args)
    identity = Identity(f"galerne-{secrets.token_hex(4)}", secrets.token_hex(32))
    settings = ingress_settings(
        config,
        app_name=identity.app_name,
        cluster_token=identity.cluster_token,
        tls=internal_tls(config),
        tokenizer=tokenizer_directory(checkpoint_directory(config)),
        limits=api_limits(config),
        frontends=config.frontends.scaling(available_cores()),
    )
    settings = replace(
        settings,
        start_timeout_s=config.start_timeout_s + _FRONTEND_MARGIN_S,
        answers_while_starting=True,
        has_direct_ingress=None,
    )
    # One that is scaled away has as long as its streams last.
    stop_s = config.drain_s + _FRONTEND_STOP_S if settings.frontends.is_fixed else None
    # The owner is an argument of the frontend only so that Serve deploys both.
    return frontend_app(settings, {}, stop_s, parts_app(config, identity))


def settings_of(args: Mapping[str, Any]) -> ServeConfig:
    """The settings that the arguments mean. Reads the file ``config``, nothing else.

    Raises:
        ConfigError: As ``build``.
    """
    inline = {str(name).replace("-", "_"): value for name, value in args.items()}
    file = inline.pop("config", None)
    if file is not None and not isinstance(file, str):
        raise ConfigError("config", file, "must be the path of a YAML file")
    config = load_config(None if file is None else Path(file), inline)
    for name, problem in _NOT_OURS.items():
        if name in config.model_fields_set:
            raise ConfigError(name, getattr(config, name), problem)
    return config
