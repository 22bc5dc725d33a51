"""Settings of ``galerne serve``: flags and YAML become one checked value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic.dataclasses import dataclass

from cluster.image_settings import ImageSettings
from cluster.ingress.frontend_scaling import FrontendSettings
from cluster.planning.scaler_config import ScalerConfig
from cluster.ports import check_different
from galerne.errors import ConfigError
from galerne.internal_tls import DEFAULT_NAME
from galerne.logs import LogSettings
from router.api.image_urls import ImageUrlPolicy
from router.engine.speculation.policy import MAX_DRAFT_TOKENS
from router.tracing.settings import TracingSettings

# Flags that are settings of a mapping: what stands before and after the setting's name.
_GROUPS = (
    ("internal_tls_", "internal_tls", ""),
    ("tls_", "tls", ""),
    ("trace_", "tracing", ""),
    ("ray_head_", "ray_head", ""),
    ("", "frontends", "_frontends"),
)
_TRACING = TracingSettings(endpoint="file:///defaults")


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class ScalerSettings(ScalerConfig):
    """``autoscaler:`` in the YAML: the autoscaler's patience, and how it watches and weighs."""

    tick_s: float = Field(default=5.0, ge=0.1, description="seconds between decisions")
    window_s: float = Field(default=60.0, ge=1, description="seconds of load it looks at")
    node_weight: float | None = Field(
        default=None,
        ge=0,
        description="cost: time * machines^weight; unset: 1, or 4 with promised times",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.idle_to_zero_s is not None:
            problem = "is set beside autoscaler, not in it"
            raise ConfigError("autoscaler.idle_to_zero_s", self.idle_to_zero_s, problem)


class NodeSettings(BaseModel):
    """Machines of a worker group; see ``cluster.node_kinds``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    role: Literal["gateway", "shard", "any"] = Field(description="label galerne.io/role; any: none")
    most: int = Field(ge=0, description="machines in all, with those that are there already")
    cores: int | None = Field(default=None, ge=1, description="unset: as those that are there")
    memory_bytes: float | None = Field(default=None, gt=0, description="unset: likewise")
    gpus: int | None = Field(default=None, ge=0, description="of one machine; unset: likewise")


class RayHeadSettings(BaseModel):
    """The Ray that we start is the head of a cluster, which nodes of other hosts join."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: str = Field(min_length=1, description="address of this host, as other nodes reach it")
    port: int = Field(6379, ge=1, le=65535, description="of Ray's head, which others are told")
    num_cpus: int | None = Field(
        None, ge=0, description="that parts are placed by on this node; 0: none; unset: its cores"
    )
    num_gpus: int | None = Field(
        None, ge=0, description="the same of its GPUs; unset: those that Ray finds"
    )
    role: Literal["gateway", "shard"] | None = Field(
        None, description="label galerne.io/role of this node; unset: both"
    )
    metrics_port: int | None = Field(
        None, ge=1, le=65535, description="of Ray's own metrics of this node; unset: any"
    )


class TlsSettings(BaseModel):
    """Certificates that clients see; files in PEM, read again when they change."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cert: Path = Field(description="certificate for clients, then those up to its CA")
    key: Path = Field(description="its private key, without a passphrase")
    client_ca: Path | None = Field(
        None, description="CAs of clients: then each must show a certificate of one of them"
    )


class InternalTlsSettings(BaseModel):
    """Mutual TLS between our own processes; see ``galerne.internal_tls``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cert: Path = Field(description="certificate of our processes, at this place on every host")
    key: Path = Field(description="its private key, without a passphrase")
    ca: Path = Field(description="CA of all of them")
    name: str = Field(DEFAULT_NAME, min_length=1, description="DNS name that they all carry")


class TracingConfig(BaseModel):
    """Traces of requests by OpenTelemetry; see ``router.tracing.settings``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    endpoint: str = Field(
        description="where traces go: grpc://HOST:PORT or http://HOST:PORT of an OTLP collector "
        "(grpcs, https with TLS), or file:///DIRECTORY for JSON lines; unset: nothing is traced"
    )
    sample_ratio: float = Field(
        _TRACING.sample_ratio,
        description="share of requests that are traced whose caller does not say (traceparent)",
    )
    slow_s: float = Field(
        _TRACING.slow_s,
        description="a request that waited longer for a token is kept, sampled or not, as is one "
        "that failed or was retried",
    )
    buffer_steps: int = Field(
        _TRACING.buffer_steps,
        description="steps whose details a gateway holds until their requests have ended",
    )

    @property
    def settings(self) -> TracingSettings:
        """As processes get them.

        Raises:
            ConfigError: A setting is wrong.
        """
        return TracingSettings(**self.model_dump())

    @model_validator(mode="after")
    def _check(self) -> TracingConfig:
        _ = self.settings  # names what is wrong
        return self


class ServeConfig(BaseModel):
    """Everything ``galerne serve`` takes. Unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: Path | None = Field(None, description="checkpoint directory; unset: the embedded model")
    shards: int | None = Field(None, ge=1, description="expert shards; unset: the mode decides")
    gateways: int = Field(1, ge=1, le=64, description="gateway processes")
    replicas: int = Field(1, ge=1, description="copies of every expert, on different shards")
    mode: Literal["latency", "throughput", "auto"] = Field(
        "latency", description="topology preset; auto: the autoscaler chooses, and changes it live"
    )
    ttft_p95_s: float | None = Field(
        None, gt=0, description="promise: 95 % of first tokens within so many seconds"
    )
    inter_token_p95_s: float | None = Field(
        None, gt=0, description="promise: 95 % of the other tokens within so many seconds"
    )
    max_nodes: int | None = Field(None, ge=1, description="machines that auto may take in all")
    nodes: tuple[NodeSettings, ...] = Field(
        (), description="machines that auto may ask Ray's autoscaler for, each role once"
    )
    idle_to_zero_s: float | None = Field(
        None,
        gt=0,
        description="seconds without a request after which auto ends all parts, until the next "
        "request, which waits for them; unset: never",
    )
    calibration: Path | None = Field(
        None,
        description="file of galerne doctor to decide by; unset: this machine's last one, and "
        "auto measures if there is none",
    )
    autoscaler: ScalerSettings = Field(ScalerSettings(), description="how patient auto is")
    transport: Literal["auto", "local", "shm", "grpc", "nccl"] = Field(
        "auto",
        description="gateway to shards; shm: shared memory where they share a host, else grpc; "
        "nccl: from GPU to GPU, else grpc; auto: shm if shards are asked for, else by mode",
    )
    trusted_network: Literal["nccl"] | None = Field(
        None,
        description="what may leave a host in plain text: nccl, which has no encryption; unset: "
        "NCCL goes within hosts only, and links between them by gRPC",
    )
    numerics: Literal["bf16", "fp32"] = Field("bf16", description="number format of all arithmetic")
    experts: Literal["bf16", "int8", "int4"] | None = Field(
        None,
        description="how routed experts are held (quantised while they load); "
        "unset: as galerne quantize wrote them, else bf16",
    )
    dense: Literal["bf16", "int8", "int4"] | None = Field(
        None, description="how projections, shared experts and head are held; unset: the same"
    )
    device: Literal["cpu", "cuda"] = Field(
        "cpu", description="of gateways: attention, cache, dense weights, experts without shards"
    )
    shard_device: Literal["cpu", "cuda"] = Field(
        "cpu", description="of expert shards; cuda goes with device cuda"
    )
    host: str = Field("127.0.0.1", description="address the public ports bind to")
    http_port: int = Field(8000, ge=0, le=65535, description="OpenAI-compatible HTTP; 0: any")
    grpc_port: int = Field(9000, ge=0, le=65535, description="gRPC; 0: any")
    frontends: FrontendSettings = Field(FrontendSettings(), description="min, max of frontends")
    address: str | None = Field(None, description="Ray cluster to join; unset: start a local one")
    ray_head: RayHeadSettings | None = Field(
        None,
        description="let nodes of other hosts join the Ray that we start, with the token of our "
        "environment: host, port, num_cpus, num_gpus, role, metrics_port; unset: we are alone",
    )
    await_nodes: int | None = Field(
        None,
        ge=1,
        description="nodes with room for parts that must have joined before any is placed, within "
        "start_timeout_s; unset: those that are there",
    )
    ray_storage: Literal["off"] | Path | None = Field(
        None,
        description="directory where the local Ray keeps its state, so that its head may die and "
        "come back; unset: in the run directory; off: memory only",
    )
    max_model_len: int | None = Field(None, ge=16, description="prompt and output, in tokens")
    kv_memory: Annotated[str, BeforeValidator(str)] = Field(
        "0.3",
        description="KV pool: bytes (2GiB), or a fraction of the memory left after weights; taken "
        "as the pool fills",
    )
    micro_batches: int | None = Field(
        None, ge=1, le=8, description="parts of a step that circulate between gateway and shards"
    )
    max_num_seqs: int | None = Field(None, ge=1, description="sequences in a step; unset: mode")
    max_batched_tokens: int | None = Field(None, ge=16, description="tokens in a step; unset: mode")
    served_model_name: str | None = Field(None, description="name clients use")
    reasoning_effort: Literal["none", "high"] | None = Field(
        None, description="of chats that name none; unset: as the model's tokenizer file says"
    )
    image_url_hosts: tuple[str, ...] = Field(
        (),
        description="hosts from which images may be fetched by URL: example.org, *.example.org, "
        "example.org:8443; unset: none",
    )
    image_url_networks: tuple[str, ...] = Field(
        (),
        description="networks that are not public, yet may hold such hosts: 10.1.0.0/16; "
        "unset: none",
    )
    images: ImageSettings = Field(ImageSettings(), description="limits of images")
    api_keys_file: Path | None = Field(
        None,
        description="file (or mounted secret) of API keys, one a line, each with name= and limits "
        "requests_per_min=, tokens_per_min=, concurrency= if wanted; read again when it changes",
    )
    admin_keys_file: Path | None = Field(
        None, description="the same for keys that may change the cluster, which API keys may not"
    )
    audit_log: Path | None = Field(
        None,
        description="file for who did what, when and how much, without content; "
        "unset: refused keys and changes of the cluster go to the log",
    )
    tls: TlsSettings | None = Field(
        None, description="TLS for clients: cert, key, client_ca; unset: plain text"
    )
    internal_tls: InternalTlsSettings | None = Field(
        None, description="TLS between our processes: cert, key, ca, name; unset: plain text"
    )
    request_timeout_s: float | None = Field(
        None, gt=0, description="seconds a request may take that sets no timeout; unset: no limit"
    )
    dashboard_port: int | None = Field(
        None, ge=0, le=65535, description="Ray dashboard on loopback; unset: off"
    )
    insecure_network: bool = Field(
        False, description="let internal plaintext ports leave the host (several nodes)"
    )
    speculative: Literal["auto", "off", "ngram", "eagle"] = Field(
        "auto",
        description="guesses at the next tokens, verified many at a time; changes no token. auto: "
        "by the model's Eagle head, or by n-grams of the text, while measured times and "
        "acceptance say that it pays; ngram, eagle: always",
    )
    num_draft_tokens: int = Field(
        4, ge=1, le=MAX_DRAFT_TOKENS, description="guesses per sequence and step, at most"
    )
    draft_model: Path | None = Field(
        None, description="directory of the Eagle head; unset: eagle in the checkpoint's"
    )
    record: Path | None = Field(
        None,
        description="directory for records that galerne replay repeats; they hold prompts and "
        "answers, so each is made for you alone (mode 0700)",
    )
    adapters: Path | None = Field(
        None,
        description="directory of LoRA adapters (PEFT format, one directory each) that may be "
        "loaded while it serves; at the same path on every node",
    )
    adapter_memory: str | None = Field(
        None,
        description="bytes (2GiB) set aside for adapters on every GPU; unset: what those that lie "
        "in adapters at the start take; more are loaded while there is room",
    )
    tracing: TracingConfig | None = Field(
        None, description="traces of requests: endpoint, sample_ratio, slow_s; unset: none"
    )
    log_format: Literal["logfmt", "json"] = Field(
        "logfmt", description="of the log of every process: one event a line"
    )
    log_level: Literal["debug", "info", "warning", "error", "critical"] = Field(
        "warning", description="what is logged; galerne log-level changes it while it serves"
    )
    drain_s: float = Field(30.0, ge=0, description="seconds running requests get at shutdown")
    start_timeout_s: float = Field(600.0, gt=0, description="seconds all parts get to start")

    @property
    def patience(self) -> ScalerConfig:
        """The autoscaler's, as the decision takes it."""
        told = {field.name: getattr(self.autoscaler, field.name) for field in fields(ScalerConfig)}
        return ScalerConfig(**told | {"idle_to_zero_s": self.idle_to_zero_s})

    @property
    def logs(self) -> LogSettings:
        """How every process logs."""
        return LogSettings(format=self.log_format, level=self.log_level)

    @property
    def traces(self) -> TracingSettings | None:
        """What every process that makes spans is told; None: nothing is traced."""
        return None if self.tracing is None else self.tracing.settings

    @property
    def image_urls(self) -> ImageUrlPolicy:
        """From where images are fetched."""
        return self.images.url_policy(self.image_url_hosts, self.image_url_networks)

    @model_validator(mode="after")
    def _check_together(self) -> ServeConfig:
        _ = self.image_urls  # names the entry that is wrong
        head = self.ray_head
        told = {name: getattr(self, name) for name in ("http_port", "grpc_port", "dashboard_port")}
        if head is not None:
            told |= {"ray_head.port": head.port, "ray_head.metrics_port": head.metrics_port}
        check_different(told)
        return self


def load_config(file: Path | None, flags: Mapping[str, object]) -> ServeConfig:
    """Settings from a YAML file, overridden by the flags that were given (not None).

    Raises:
        ConfigError: Names the first key that is wrong, its value and why.
    """
    fields: dict[str, object] = {}
    if file is not None:
        try:
            loaded = yaml.safe_load(file.read_text())
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise ConfigError("config", file, str(error)) from error
        if not isinstance(loaded, dict):
            raise ConfigError("config", file, "is not a mapping of settings")
        fields |= {str(key).replace("-", "_"): value for key, value in loaded.items()}
    for key, value in flags.items():
        if value is not None:
            _put(fields, key, value)
    try:
        return ServeConfig.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise ConfigError(key, first["input"], first["msg"]) from error


def _put(fields: dict[str, object], key: str, value: object) -> None:
    """Set a flag; ``tls_cert`` and the like are settings of a mapping."""
    for prefix, group, suffix in _GROUPS:
        if key.startswith(prefix) and key.endswith(suffix):
            known = fields.get(group)
            inner = dict(known) if isinstance(known, dict) else {}
            fields[group] = inner | {key.removeprefix(prefix).removesuffix(suffix): value}
            return
    fields[key] = value
