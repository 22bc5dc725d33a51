from galerne.v1 import inference_pb2 as _inference_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Topology(_message.Message):
    __slots__ = ("epoch", "mode", "gateways", "shards", "transport", "num_micro_batches", "max_num_seqs", "max_batched_tokens", "row_budget", "layers", "num_layers")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    GATEWAYS_FIELD_NUMBER: _ClassVar[int]
    SHARDS_FIELD_NUMBER: _ClassVar[int]
    TRANSPORT_FIELD_NUMBER: _ClassVar[int]
    NUM_MICRO_BATCHES_FIELD_NUMBER: _ClassVar[int]
    MAX_NUM_SEQS_FIELD_NUMBER: _ClassVar[int]
    MAX_BATCHED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    ROW_BUDGET_FIELD_NUMBER: _ClassVar[int]
    LAYERS_FIELD_NUMBER: _ClassVar[int]
    NUM_LAYERS_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    mode: str
    gateways: _containers.RepeatedScalarFieldContainer[str]
    shards: _containers.RepeatedScalarFieldContainer[str]
    transport: str
    num_micro_batches: int
    max_num_seqs: int
    max_batched_tokens: int
    row_budget: int
    layers: _containers.RepeatedCompositeFieldContainer[LayerPlacement]
    num_layers: int
    def __init__(self, epoch: _Optional[int] = ..., mode: _Optional[str] = ..., gateways: _Optional[_Iterable[str]] = ..., shards: _Optional[_Iterable[str]] = ..., transport: _Optional[str] = ..., num_micro_batches: _Optional[int] = ..., max_num_seqs: _Optional[int] = ..., max_batched_tokens: _Optional[int] = ..., row_budget: _Optional[int] = ..., layers: _Optional[_Iterable[_Union[LayerPlacement, _Mapping]]] = ..., num_layers: _Optional[int] = ...) -> None: ...

class LayerPlacement(_message.Message):
    __slots__ = ("num_replicas", "shards")
    NUM_REPLICAS_FIELD_NUMBER: _ClassVar[int]
    SHARDS_FIELD_NUMBER: _ClassVar[int]
    num_replicas: _containers.RepeatedScalarFieldContainer[int]
    shards: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, num_replicas: _Optional[_Iterable[int]] = ..., shards: _Optional[_Iterable[int]] = ...) -> None: ...

class PrepareTopologyRequest(_message.Message):
    __slots__ = ("topology", "timeout_s")
    TOPOLOGY_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_S_FIELD_NUMBER: _ClassVar[int]
    topology: Topology
    timeout_s: float
    def __init__(self, topology: _Optional[_Union[Topology, _Mapping]] = ..., timeout_s: _Optional[float] = ...) -> None: ...

class EpochRequest(_message.Message):
    __slots__ = ("epoch",)
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    def __init__(self, epoch: _Optional[int] = ...) -> None: ...

class TopologyReport(_message.Message):
    __slots__ = ("epoch", "rows_compared", "seconds")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    ROWS_COMPARED_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    rows_compared: int
    seconds: float
    def __init__(self, epoch: _Optional[int] = ..., rows_compared: _Optional[int] = ..., seconds: _Optional[float] = ...) -> None: ...

class LoadAdapterRequest(_message.Message):
    __slots__ = ("adapter",)
    ADAPTER_FIELD_NUMBER: _ClassVar[int]
    adapter: _inference_pb2.AdapterInfo
    def __init__(self, adapter: _Optional[_Union[_inference_pb2.AdapterInfo, _Mapping]] = ...) -> None: ...

class UnloadAdapterRequest(_message.Message):
    __slots__ = ("id", "deadline_s")
    ID_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_S_FIELD_NUMBER: _ClassVar[int]
    id: str
    deadline_s: float
    def __init__(self, id: _Optional[str] = ..., deadline_s: _Optional[float] = ...) -> None: ...

class AdapterReport(_message.Message):
    __slots__ = ("id", "rank", "num_bytes")
    ID_FIELD_NUMBER: _ClassVar[int]
    RANK_FIELD_NUMBER: _ClassVar[int]
    NUM_BYTES_FIELD_NUMBER: _ClassVar[int]
    id: str
    rank: int
    num_bytes: int
    def __init__(self, id: _Optional[str] = ..., rank: _Optional[int] = ..., num_bytes: _Optional[int] = ...) -> None: ...

class LayerExperts(_message.Message):
    __slots__ = ("layer", "experts")
    LAYER_FIELD_NUMBER: _ClassVar[int]
    EXPERTS_FIELD_NUMBER: _ClassVar[int]
    layer: int
    experts: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, layer: _Optional[int] = ..., experts: _Optional[_Iterable[int]] = ...) -> None: ...

class PrepareEpochRequest(_message.Message):
    __slots__ = ("epoch", "experts")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    EXPERTS_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    experts: _containers.RepeatedCompositeFieldContainer[LayerExperts]
    def __init__(self, epoch: _Optional[int] = ..., experts: _Optional[_Iterable[_Union[LayerExperts, _Mapping]]] = ...) -> None: ...

class RetireEpochsRequest(_message.Message):
    __slots__ = ("keep",)
    KEEP_FIELD_NUMBER: _ClassVar[int]
    keep: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, keep: _Optional[_Iterable[int]] = ...) -> None: ...

class AdoptRequest(_message.Message):
    __slots__ = ("experts",)
    EXPERTS_FIELD_NUMBER: _ClassVar[int]
    experts: _containers.RepeatedCompositeFieldContainer[LayerExperts]
    def __init__(self, experts: _Optional[_Iterable[_Union[LayerExperts, _Mapping]]] = ...) -> None: ...

class ExpertChange(_message.Message):
    __slots__ = ("num_loaded", "num_released", "seconds")
    NUM_LOADED_FIELD_NUMBER: _ClassVar[int]
    NUM_RELEASED_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    num_loaded: int
    num_released: int
    seconds: float
    def __init__(self, num_loaded: _Optional[int] = ..., num_released: _Optional[int] = ..., seconds: _Optional[float] = ...) -> None: ...

class RawFrame(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Image(_message.Message):
    __slots__ = ("pixels", "height", "width", "offset", "grid_width", "grid_height", "content_hash")
    PIXELS_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    GRID_WIDTH_FIELD_NUMBER: _ClassVar[int]
    GRID_HEIGHT_FIELD_NUMBER: _ClassVar[int]
    CONTENT_HASH_FIELD_NUMBER: _ClassVar[int]
    pixels: bytes
    height: int
    width: int
    offset: int
    grid_width: int
    grid_height: int
    content_hash: bytes
    def __init__(self, pixels: _Optional[bytes] = ..., height: _Optional[int] = ..., width: _Optional[int] = ..., offset: _Optional[int] = ..., grid_width: _Optional[int] = ..., grid_height: _Optional[int] = ..., content_hash: _Optional[bytes] = ...) -> None: ...

class SubmitRequest(_message.Message):
    __slots__ = ("request_id", "prompt_token_ids", "images", "sampling", "cache_salt", "resumed", "hold", "rules", "adapter", "priority", "owner")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    CACHE_SALT_FIELD_NUMBER: _ClassVar[int]
    RESUMED_FIELD_NUMBER: _ClassVar[int]
    HOLD_FIELD_NUMBER: _ClassVar[int]
    RULES_FIELD_NUMBER: _ClassVar[int]
    ADAPTER_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    prompt_token_ids: _containers.RepeatedScalarFieldContainer[int]
    images: _containers.RepeatedCompositeFieldContainer[Image]
    sampling: _inference_pb2.SamplingParams
    cache_salt: str
    resumed: _containers.RepeatedCompositeFieldContainer[ResumedChoice]
    hold: Hold
    rules: AnswerRules
    adapter: str
    priority: int
    owner: bytes
    def __init__(self, request_id: _Optional[str] = ..., prompt_token_ids: _Optional[_Iterable[int]] = ..., images: _Optional[_Iterable[_Union[Image, _Mapping]]] = ..., sampling: _Optional[_Union[_inference_pb2.SamplingParams, _Mapping]] = ..., cache_salt: _Optional[str] = ..., resumed: _Optional[_Iterable[_Union[ResumedChoice, _Mapping]]] = ..., hold: _Optional[_Union[Hold, _Mapping]] = ..., rules: _Optional[_Union[AnswerRules, _Mapping]] = ..., adapter: _Optional[str] = ..., priority: _Optional[int] = ..., owner: _Optional[bytes] = ...) -> None: ...

class AnswerRules(_message.Message):
    __slots__ = ("grammar", "start", "may_think", "is_thinking", "has_tools", "max_thinking_tokens")
    GRAMMAR_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    MAY_THINK_FIELD_NUMBER: _ClassVar[int]
    IS_THINKING_FIELD_NUMBER: _ClassVar[int]
    HAS_TOOLS_FIELD_NUMBER: _ClassVar[int]
    MAX_THINKING_TOKENS_FIELD_NUMBER: _ClassVar[int]
    grammar: str
    start: str
    may_think: bool
    is_thinking: bool
    has_tools: bool
    max_thinking_tokens: int
    def __init__(self, grammar: _Optional[str] = ..., start: _Optional[str] = ..., may_think: bool = ..., is_thinking: bool = ..., has_tools: bool = ..., max_thinking_tokens: _Optional[int] = ...) -> None: ...

class Hold(_message.Message):
    __slots__ = ("grace_s", "owner", "context", "history")
    GRACE_S_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_FIELD_NUMBER: _ClassVar[int]
    HISTORY_FIELD_NUMBER: _ClassVar[int]
    grace_s: float
    owner: bytes
    context: bytes
    history: _containers.RepeatedCompositeFieldContainer[SubmitEvent]
    def __init__(self, grace_s: _Optional[float] = ..., owner: _Optional[bytes] = ..., context: _Optional[bytes] = ..., history: _Optional[_Iterable[_Union[SubmitEvent, _Mapping]]] = ...) -> None: ...

class ResumeSubmittedRequest(_message.Message):
    __slots__ = ("request_id", "owner")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    owner: bytes
    def __init__(self, request_id: _Optional[str] = ..., owner: _Optional[bytes] = ...) -> None: ...

class ResumedEvent(_message.Message):
    __slots__ = ("submitted", "delta")
    SUBMITTED_FIELD_NUMBER: _ClassVar[int]
    DELTA_FIELD_NUMBER: _ClassVar[int]
    submitted: SubmitRequest
    delta: SubmitEvent
    def __init__(self, submitted: _Optional[_Union[SubmitRequest, _Mapping]] = ..., delta: _Optional[_Union[SubmitEvent, _Mapping]] = ...) -> None: ...

class ResumedChoice(_message.Message):
    __slots__ = ("token_ids", "is_ended")
    TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    IS_ENDED_FIELD_NUMBER: _ClassVar[int]
    token_ids: _containers.RepeatedScalarFieldContainer[int]
    is_ended: bool
    def __init__(self, token_ids: _Optional[_Iterable[int]] = ..., is_ended: bool = ...) -> None: ...

class AbortSubmittedRequest(_message.Message):
    __slots__ = ("request_id", "choice", "forget", "owner")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    CHOICE_FIELD_NUMBER: _ClassVar[int]
    FORGET_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    choice: int
    forget: bool
    owner: bytes
    def __init__(self, request_id: _Optional[str] = ..., choice: _Optional[int] = ..., forget: bool = ..., owner: _Optional[bytes] = ...) -> None: ...

class SubmitEvent(_message.Message):
    __slots__ = ("choice", "offset", "token_ids", "logprobs", "prompt_logprobs", "cached_tokens", "finish_reason", "stop_token_id", "error", "is_trace_kept")
    CHOICE_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    PROMPT_LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    CACHED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    FINISH_REASON_FIELD_NUMBER: _ClassVar[int]
    STOP_TOKEN_ID_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    IS_TRACE_KEPT_FIELD_NUMBER: _ClassVar[int]
    choice: int
    offset: int
    token_ids: _containers.RepeatedScalarFieldContainer[int]
    logprobs: _containers.RepeatedCompositeFieldContainer[_inference_pb2.TokenLogprobs]
    prompt_logprobs: _containers.RepeatedCompositeFieldContainer[_inference_pb2.TokenLogprobs]
    cached_tokens: int
    finish_reason: _inference_pb2.FinishReason
    stop_token_id: int
    error: str
    is_trace_kept: bool
    def __init__(self, choice: _Optional[int] = ..., offset: _Optional[int] = ..., token_ids: _Optional[_Iterable[int]] = ..., logprobs: _Optional[_Iterable[_Union[_inference_pb2.TokenLogprobs, _Mapping]]] = ..., prompt_logprobs: _Optional[_Iterable[_Union[_inference_pb2.TokenLogprobs, _Mapping]]] = ..., cached_tokens: _Optional[int] = ..., finish_reason: _Optional[_Union[_inference_pb2.FinishReason, str]] = ..., stop_token_id: _Optional[int] = ..., error: _Optional[str] = ..., is_trace_kept: bool = ...) -> None: ...

class DescribeGatewayRequest(_message.Message):
    __slots__ = ("with_metrics", "with_topology")
    WITH_METRICS_FIELD_NUMBER: _ClassVar[int]
    WITH_TOPOLOGY_FIELD_NUMBER: _ClassVar[int]
    with_metrics: bool
    with_topology: bool
    def __init__(self, with_metrics: bool = ..., with_topology: bool = ...) -> None: ...

class ModelFacts(_message.Message):
    __slots__ = ("name", "fingerprint", "numerics_profile", "max_model_len", "vocab_size", "num_layers", "num_experts", "num_experts_per_tok", "eos_token_id", "takes_images", "image_token_id", "patch_size", "spatial_merge_size", "max_image_size")
    NAME_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    NUMERICS_PROFILE_FIELD_NUMBER: _ClassVar[int]
    MAX_MODEL_LEN_FIELD_NUMBER: _ClassVar[int]
    VOCAB_SIZE_FIELD_NUMBER: _ClassVar[int]
    NUM_LAYERS_FIELD_NUMBER: _ClassVar[int]
    NUM_EXPERTS_FIELD_NUMBER: _ClassVar[int]
    NUM_EXPERTS_PER_TOK_FIELD_NUMBER: _ClassVar[int]
    EOS_TOKEN_ID_FIELD_NUMBER: _ClassVar[int]
    TAKES_IMAGES_FIELD_NUMBER: _ClassVar[int]
    IMAGE_TOKEN_ID_FIELD_NUMBER: _ClassVar[int]
    PATCH_SIZE_FIELD_NUMBER: _ClassVar[int]
    SPATIAL_MERGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    MAX_IMAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    name: str
    fingerprint: str
    numerics_profile: str
    max_model_len: int
    vocab_size: int
    num_layers: int
    num_experts: int
    num_experts_per_tok: int
    eos_token_id: int
    takes_images: bool
    image_token_id: int
    patch_size: int
    spatial_merge_size: int
    max_image_size: int
    def __init__(self, name: _Optional[str] = ..., fingerprint: _Optional[str] = ..., numerics_profile: _Optional[str] = ..., max_model_len: _Optional[int] = ..., vocab_size: _Optional[int] = ..., num_layers: _Optional[int] = ..., num_experts: _Optional[int] = ..., num_experts_per_tok: _Optional[int] = ..., eos_token_id: _Optional[int] = ..., takes_images: bool = ..., image_token_id: _Optional[int] = ..., patch_size: _Optional[int] = ..., spatial_merge_size: _Optional[int] = ..., max_image_size: _Optional[int] = ...) -> None: ...

class GatewayDescription(_message.Message):
    __slots__ = ("gateway_id", "model", "load", "kv_tokens", "links", "max_num_seqs", "max_batched_tokens", "unready_reason", "steps", "epoch", "metrics", "seconds_by_part", "topology")
    class LinksEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    class SecondsByPartEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    GATEWAY_ID_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    LOAD_FIELD_NUMBER: _ClassVar[int]
    KV_TOKENS_FIELD_NUMBER: _ClassVar[int]
    LINKS_FIELD_NUMBER: _ClassVar[int]
    MAX_NUM_SEQS_FIELD_NUMBER: _ClassVar[int]
    MAX_BATCHED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    UNREADY_REASON_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    SECONDS_BY_PART_FIELD_NUMBER: _ClassVar[int]
    TOPOLOGY_FIELD_NUMBER: _ClassVar[int]
    gateway_id: str
    model: ModelFacts
    load: _inference_pb2.Load
    kv_tokens: int
    links: _containers.ScalarMap[str, str]
    max_num_seqs: int
    max_batched_tokens: int
    unready_reason: str
    steps: int
    epoch: int
    metrics: bytes
    seconds_by_part: _containers.ScalarMap[str, float]
    topology: Topology
    def __init__(self, gateway_id: _Optional[str] = ..., model: _Optional[_Union[ModelFacts, _Mapping]] = ..., load: _Optional[_Union[_inference_pb2.Load, _Mapping]] = ..., kv_tokens: _Optional[int] = ..., links: _Optional[_Mapping[str, str]] = ..., max_num_seqs: _Optional[int] = ..., max_batched_tokens: _Optional[int] = ..., unready_reason: _Optional[str] = ..., steps: _Optional[int] = ..., epoch: _Optional[int] = ..., metrics: _Optional[bytes] = ..., seconds_by_part: _Optional[_Mapping[str, float]] = ..., topology: _Optional[_Union[Topology, _Mapping]] = ...) -> None: ...

class DescribeShardRequest(_message.Message):
    __slots__ = ("with_load",)
    WITH_LOAD_FIELD_NUMBER: _ClassVar[int]
    with_load: bool
    def __init__(self, with_load: bool = ...) -> None: ...

class ShardDescription(_message.Message):
    __slots__ = ("shard_id", "num_experts", "resident_bytes", "bytes_read", "frames", "rows", "rss_bytes", "epochs", "pid", "metrics", "adopted", "expert_rows", "compute_seconds")
    SHARD_ID_FIELD_NUMBER: _ClassVar[int]
    NUM_EXPERTS_FIELD_NUMBER: _ClassVar[int]
    RESIDENT_BYTES_FIELD_NUMBER: _ClassVar[int]
    BYTES_READ_FIELD_NUMBER: _ClassVar[int]
    FRAMES_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    RSS_BYTES_FIELD_NUMBER: _ClassVar[int]
    EPOCHS_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    ADOPTED_FIELD_NUMBER: _ClassVar[int]
    EXPERT_ROWS_FIELD_NUMBER: _ClassVar[int]
    COMPUTE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    shard_id: str
    num_experts: int
    resident_bytes: int
    bytes_read: int
    frames: int
    rows: int
    rss_bytes: int
    epochs: _containers.RepeatedScalarFieldContainer[int]
    pid: int
    metrics: bytes
    adopted: _containers.RepeatedCompositeFieldContainer[LayerExperts]
    expert_rows: _containers.RepeatedScalarFieldContainer[int]
    compute_seconds: float
    def __init__(self, shard_id: _Optional[str] = ..., num_experts: _Optional[int] = ..., resident_bytes: _Optional[int] = ..., bytes_read: _Optional[int] = ..., frames: _Optional[int] = ..., rows: _Optional[int] = ..., rss_bytes: _Optional[int] = ..., epochs: _Optional[_Iterable[int]] = ..., pid: _Optional[int] = ..., metrics: _Optional[bytes] = ..., adopted: _Optional[_Iterable[_Union[LayerExperts, _Mapping]]] = ..., expert_rows: _Optional[_Iterable[int]] = ..., compute_seconds: _Optional[float] = ...) -> None: ...
