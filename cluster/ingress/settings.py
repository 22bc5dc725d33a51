"""What the ingress needs to know; plain values that Ray can carry."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from cluster.actors.launch_spec import NAMESPACE, controller_name
from cluster.config import ServeConfig
from cluster.ingress.frontend_scaling import FrontendScaling
from galerne.internal_tls import InternalTls
from galerne.logs import LogSettings
from router.api.inputs import ApiLimits
from router.tracing.settings import TracingSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class IngressSettings:
    """Settings of one deployment's ingress."""

    app_name: str
    controller_name: str
    namespace: str  # of the controller
    cluster_token: str = field(repr=False)
    tls: InternalTls | None = None  # towards gateways
    checkpoint: Path | None = None  # where tekken.json lies; None: the embedded tokenizer
    api_keys_file: Path | None = None  # on the frontend's host; None: open to all
    admin_keys_file: Path | None = None  # None: nobody may change the cluster, unless all may ask
    audit_log: Path | None = None  # None: what matters goes to the process' log
    reasoning_effort: str | None = None  # see ``Frontend``
    limits: ApiLimits = field(default_factory=ApiLimits)
    frontends: FrontendScaling = field(default_factory=FrontendScaling)
    key_accounts: Path | None = None  # private directory; None: one in that of Ray's session
    tracing: TracingSettings | None = None  # None: nothing is traced
    logs: LogSettings = field(default_factory=LogSettings)
    start_timeout_s: float = 60.0  # until a gateway answers
    # Until then /ready says why not; else the replica itself is not ready.
    answers_while_starting: bool = False
    # HAProxy calls the replica itself; found out at the start, None: by the replica.
    has_direct_ingress: bool | None = False
    allow_insecure_network: bool = False  # internal plaintext ports may be reachable from outside


def ingress_settings(
    config: ServeConfig,
    *,
    app_name: str,
    cluster_token: str,
    tls: InternalTls | None,
    tokenizer: Path | None,
    limits: ApiLimits,
    frontends: FrontendScaling,
) -> IngressSettings:
    """What the user's settings mean for the frontends of a deployment.

    Args:
        config: As the user gave it.
        app_name: Of the deployment.
        cluster_token: Of it.
        tls: Towards gateways.
        tokenizer: Directory of tekken.json; None: the embedded one.
        limits: See ``api_limits``.
        frontends: How many.
    """
    return IngressSettings(
        app_name=app_name,
        controller_name=controller_name(app_name),
        namespace=NAMESPACE,
        cluster_token=cluster_token,
        tls=tls,
        checkpoint=tokenizer,
        reasoning_effort=config.reasoning_effort,
        limits=limits,
        api_keys_file=_absolute(config.api_keys_file),
        admin_keys_file=_absolute(config.admin_keys_file),
        audit_log=_absolute(config.audit_log),
        start_timeout_s=config.start_timeout_s,
        tracing=config.traces,
        logs=config.logs,
        frontends=frontends,
        allow_insecure_network=config.insecure_network,
    )


def api_limits(config: ServeConfig) -> ApiLimits:
    """Of one request."""
    return ApiLimits(
        images=config.images.limits,
        image_urls=config.image_urls,
        request_timeout_s=config.request_timeout_s,
    )


def _absolute(path: Path | None) -> Path | None:
    return None if path is None else path.absolute()  # a link of a mounted secret stays one
