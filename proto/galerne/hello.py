"""The first words on an exchange stream: both sides agree, or the link is refused by name."""

from __future__ import annotations

import hmac
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import asdict, dataclass
from typing import TypeVar

from galerne.errors import (
    EpochRetiredError,
    GalerneError,
    HelloRefusedError,
    LinkAbortedError,
    OverloadedError,
    ProtocolError,
    UnauthenticatedError,
)
from galerne.frame import (
    NO_CREDIT,
    VERSION,
    Buffer,
    Frame,
    FrameHeader,
    FrameKind,
    Section,
    encode,
)

_T = TypeVar("_T")

EXCHANGE_METHOD = "/galerne.v1.ExpertService/Exchange"
TOKEN_METADATA_KEY = "galerne-token"

# Identical on both sides: a server that gets pings more often than it allows closes the link.
CHANNEL_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.max_send_message_length", 2 << 20),  # one chunk and its header fit with room
    ("grpc.max_receive_message_length", 2 << 20),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.so_reuseport", 0),
    ("grpc.use_local_subchannel_pool", 1),  # a new channel is a new connection
)

_MAX_SERVICE_BYTES = 512 << 20  # a request's images travel as pixels

# The same for calls with whole messages: between frontends and gateways.
SERVICE_OPTIONS: tuple[tuple[str, int], ...] = (
    *(option for option in CHANNEL_OPTIONS if "message_length" not in option[0]),
    ("grpc.max_receive_message_length", _MAX_SERVICE_BYTES),
    ("grpc.max_send_message_length", _MAX_SERVICE_BYTES),
)


def check_token(metadata: Iterable[tuple[str, str | bytes]] | None, cluster_token: str) -> None:
    """Compare the token of an internal call in constant time.

    Raises:
        UnauthenticatedError: It is missing or wrong.
    """
    given = dict(metadata or ()).get(TOKEN_METADATA_KEY, "")
    if not hmac.compare_digest(str(given).encode(), cluster_token.encode()):
        raise UnauthenticatedError("cluster token")


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedFile:
    """Memory that a process offers to a peer: ``/proc/<pid>/fd/<fd>``, if both share a host."""

    pid: int
    fd: int
    num_bytes: int
    id: str  # hexadecimal; the file starts with it


@dataclass(frozen=True, slots=True, kw_only=True)
class NcclOffer:
    """A communicator of two that a gateway offers: it joins as rank 0, the shard as rank 1."""

    id: str  # hexadecimal, of NCCL
    host: str  # which kernel runs the gateway; see ``shards.nccl.availability``
    trusts_network: bool  # what leaves the host may do so in plain text


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """What a gateway says of itself."""

    gateway: str
    incarnation: int
    fingerprint: str  # of the model
    numerics_profile: str
    epoch: int
    rings: SharedFile | None = None  # for frames that need not travel, and the bell that says so
    bell: SharedFile | None = None
    nccl: NcclOffer | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Welcome:
    """What a shard answers."""

    shard: str
    epochs: Sequence[int]
    max_frames: int  # frames a gateway may have unanswered on this link
    bell: SharedFile | None = None  # the shard's, if it has mapped the rings
    joins_nccl: bool = False  # it joins the communicator that is offered
    not_shared: str = ""  # why it has not, or does not


def encode_hello(hello: Hello) -> bytes:
    """The hello as one message."""
    header = FrameHeader(kind=FrameKind.HELLO, incarnation=hello.incarnation, epoch=hello.epoch)
    return encode_json(header, asdict(hello) | {"protocol": VERSION})


def encode_welcome(welcome: Welcome) -> bytes:
    """The welcome as one message."""
    return encode_json(FrameHeader(kind=FrameKind.WELCOME), asdict(welcome))


def encode_refusal(request: FrameHeader, error: GalerneError) -> bytes:
    """A frame's refusal as one message."""
    header = FrameHeader(
        kind=FrameKind.REFUSAL,
        incarnation=request.incarnation,
        epoch=request.epoch,
        frame=request.frame,
        attempt=request.attempt,
        flags=request.flags,
    )
    fields = {
        "message": str(error),
        "is_retryable": error.is_retryable,
        "is_epoch_retired": isinstance(error, EpochRetiredError),
        "is_link_aborted": isinstance(error, LinkAbortedError),
    }
    return encode_json(header, fields)


def decode_refusal(frame: Frame) -> GalerneError:
    """Why a frame was refused. Raises ProtocolError if it is no refusal."""
    fields = read_json(frame, FrameKind.REFUSAL)
    if fields.get("is_epoch_retired"):
        return EpochRetiredError(frame.header.epoch)
    message = str(fields.get("message"))
    if fields.get("is_link_aborted"):
        return LinkAbortedError(message)
    if fields.get("is_retryable"):
        return OverloadedError(message, 0, 0.0)
    return ProtocolError(f"refused by the shard: {message}")


def encode_adopted(hello: Hello, experts_by_layer: Mapping[int, Sequence[int]]) -> bytes:
    """All the experts that a shard holds for others, as one message."""
    header = FrameHeader(kind=FrameKind.ADOPTED, incarnation=hello.incarnation, flags=NO_CREDIT)
    return encode_json(
        header, {"experts": [[layer, list(e)] for layer, e in experts_by_layer.items()]}
    )


def decode_adopted(frame: Frame) -> dict[int, list[int]]:
    """Expert ids by layer. Raises ProtocolError if it is none."""
    pairs = read_json(frame, FrameKind.ADOPTED).get("experts")
    try:
        return {int(layer): [int(e) for e in experts] for layer, experts in pairs}  # type: ignore[attr-defined]
    except (TypeError, ValueError) as error:
        raise ProtocolError(f"adopted: experts are {pairs!r:.60}") from error


def decode_hello(frame: Frame) -> Hello:
    """Raises ProtocolError if it is none, HelloRefusedError if the protocol version differs."""
    fields = read_json(frame, FrameKind.HELLO)
    protocol = fields.pop("protocol", None)
    if protocol != VERSION:
        raise HelloRefusedError("protocol", str(VERSION), str(protocol))
    rings, bell = (_shared_file("hello", name, fields) for name in ("rings", "bell"))
    nccl = _nested("hello", "nccl", fields, NcclOffer, text=("id", "host"), yes_no="trusts_network")
    _check_types("hello", fields, text=("gateway", "fingerprint", "numerics_profile"))
    try:
        return Hello(rings=rings, bell=bell, nccl=nccl, **fields)  # type: ignore[arg-type]
    except TypeError as error:
        raise ProtocolError(f"hello: {error}") from error


def decode_welcome(frame: Frame) -> Welcome:
    """Raises ProtocolError if it is none."""
    fields = read_json(frame, FrameKind.WELCOME)
    epochs = fields.pop("epochs", None)
    if not isinstance(epochs, list) or not all(type(epoch) is int for epoch in epochs):
        raise ProtocolError(f"welcome: epochs is {epochs!r:.60}")
    bell = _shared_file("welcome", "bell", fields)
    _check_types("welcome", fields, text=("shard", "not_shared"), yes_no="joins_nccl")
    try:
        return Welcome(epochs=epochs, bell=bell, **fields)  # type: ignore[arg-type]
    except TypeError as error:
        raise ProtocolError(f"welcome: {error}") from error


def check_hello(
    hello: Hello, fingerprint: str, numerics_profile: str, epochs: AbstractSet[int]
) -> None:
    """Refuse a gateway that serves another model, profile or epoch.

    Raises:
        HelloRefusedError: Names the first field that differs.
    """
    for field, ours, theirs in (
        ("fingerprint", fingerprint, hello.fingerprint),
        ("numerics_profile", numerics_profile, hello.numerics_profile),
    ):
        if ours != theirs:
            raise HelloRefusedError(field, ours, theirs)
    if hello.epoch not in epochs:
        raise HelloRefusedError("epoch", ",".join(map(str, sorted(epochs))), str(hello.epoch))


def read_json(frame: Frame, kind: FrameKind) -> dict[str, object]:
    """The JSON section of a frame of this kind."""
    if frame.header.kind is not kind:
        raise ProtocolError(f"{frame.header.kind.name} where {kind.name} was expected")
    try:
        fields = json.loads(bytes(frame.sections[Section.JSON]))
    except (KeyError, ValueError) as error:
        raise ProtocolError(f"{kind.name} without readable JSON") from error
    if not isinstance(fields, dict):
        raise ProtocolError(f"{kind.name} is not a JSON object")
    return fields


def _shared_file(what: str, name: str, fields: dict[str, object]) -> SharedFile | None:
    """Take a shared file out of the fields."""
    return _nested(what, name, fields, SharedFile, text=("id",))


def _nested(
    what: str,
    name: str,
    fields: dict[str, object],
    kind: Callable[..., _T],
    *,
    text: tuple[str, ...],
    yes_no: str = "",
) -> _T | None:
    """Take an inner value out of the fields."""
    found = fields.pop(name, None)
    if found is None:
        return None
    if not isinstance(found, dict):
        raise ProtocolError(f"{what}: {name} is {found!r:.60}")
    _check_types(f"{what}: {name}", found, text=text, yes_no=yes_no)
    try:
        return kind(**found)
    except TypeError as error:
        raise ProtocolError(f"{what}: {name}: {error}") from error


def _check_types(
    what: str, fields: dict[str, object], *, text: tuple[str, ...], yes_no: str = ""
) -> None:
    """The named fields are strings, one is true or false, all others are integers."""
    for name, value in fields.items():
        wanted = str if name in text else bool if name == yes_no else int
        if type(value) is not wanted:
            raise ProtocolError(f"{what}: {name} is {value!r:.60}")


def encode_json(header: FrameHeader, fields: object) -> bytes:
    """Plain values as one message."""
    data: Buffer = json.dumps(fields).encode()
    (message,) = encode(header, [(Section.JSON, data)])
    return message
