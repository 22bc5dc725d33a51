"""What the ingress needs to know; plain values that Ray can carry."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

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
    key_accounts: Path | None = (
        None  # private directory; None: one in the host's for temporary ones
    )
    tracing: TracingSettings | None = None  # None: nothing is traced
    logs: LogSettings = field(default_factory=LogSettings)
    start_timeout_s: float = 60.0  # until a gateway answers
    has_direct_ingress: bool = False  # HAProxy calls the replica itself; found out at the start
    allow_insecure_network: bool = False  # internal plaintext ports may be reachable from outside
