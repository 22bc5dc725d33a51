"""Bytes that a gateway's model takes on a GPU, before it is there. Loads no torch.

Weights are counted tensor by tensor, and tests compare them with the tensors that are made. What a
step takes meanwhile is counted from above: all that one layer makes, as if nothing were freed.
"""

from __future__ import annotations

from collections import Counter
from math import prod
from typing import Final, NamedTuple

from router.model.cache_size import block_bytes
from shards.checkpoint.config import ModelConfig, VisionConfig
from shards.checkpoint.eagle import eagle_shapes
from shards.checkpoint.names import vision_shapes
from shards.kernels.device_sizes import Tensors, expert_tensors, times, weight_tensors
from shards.kernels.formats import WeightFormat
from shards.kernels.segments import MOST_PARTS, segments_of

# What the model on a device is made of, and its plan counts.
GRAPH_SIZES: Final = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256)  # tokens of a graph
# Held at one time; the one that was not needed for longest goes. All shapes of 32k tokens, with
# adapters and without, are 104.
MOST_GRAPHS: Final = 112
# Of the head's own cache, for guesses beyond the blocks that a sequence holds, one a sequence.
NUM_SCRATCH: Final = 256  # blocks
VISION_ROWS: Final = 4096  # patches that go through a layer together

_BLOCK_BYTES: Final = 256  # of a segment's part of a block table, at most
_GRAPH_BYTES: Final = 2 << 20  # of a recorded step besides its rows; not measured yet


class StepLimits(NamedTuple):
    """The largest step of a gateway."""

    tokens: int
    sequences: int
    length: int  # tokens of the longest sequence


def dense_tensors(config: ModelConfig, dense: WeightFormat, number_bytes: int) -> Tensors:
    """Of the text model without its routed experts.

    ``dense``: how projections and shared experts are kept; the head of an fp8 checkpoint is wide.
    """
    head = WeightFormat.BF16 if dense is WeightFormat.FP8 else dense
    size = config.vocab_size, config.hidden_size
    found = Counter([4 * config.hidden_size])
    found += Counter([prod(size) * number_bytes])
    found += weight_tensors(*size, head, number_bytes)
    of_layer = layer_tensors(config, dense, number_bytes)
    of_layer += expert_tensors(config.hidden_size, config.shared_size, dense, number_bytes)
    of_layer += address_tensors(1)
    return found + times(of_layer, config.num_layers)


def address_tensors(num_experts: int) -> Tensors:
    """Where the kernels find a layer's experts, and the shared one beside them."""
    return Counter([4 * 8 * (num_experts + 1)])


def layer_tensors(config: ModelConfig, dense: WeightFormat, number_bytes: int) -> Tensors:
    """Of one layer's attention, norms and gate."""
    hidden, heads, latent = config.hidden_size, config.num_heads, config.kv_lora_rank
    found: Tensors = Counter()
    for norm in (hidden, hidden, config.q_lora_rank, latent):
        found[4 * norm] += 1
    for weight in (
        (config.q_lora_rank + config.latent_dim, hidden),
        (heads * config.qk_head_dim, config.q_lora_rank),
        (hidden, heads * config.v_head_dim),
    ):
        found += weight_tensors(*weight, dense, number_bytes)
    for width in (config.qk_nope_head_dim, config.v_head_dim):
        found[heads * width * latent * number_bytes] += 1
    return found + weight_tensors(config.num_experts, hidden, WeightFormat.BF16, number_bytes)


def head_tensors(head: ModelConfig, number_bytes: int, block_size: int) -> Tensors:
    """Of an Eagle head and of its guesses' cache; fp8 weights stay as they are."""
    width = 1 if head.is_fp8 else number_bytes
    found = Counter([width * prod(shape) for shape in eagle_shapes(head).values()])
    found[NUM_SCRATCH * block_bytes(head, block_size, number_bytes)] += 1
    return found


def vision_tensors(vision: VisionConfig, text_hidden_size: int, number_bytes: int) -> Tensors:
    """Of the vision tower and the projector: norms are float32."""
    shapes = vision_shapes(vision, text_hidden_size).values()
    return Counter([prod(s) * (4 if len(s) == 1 else number_bytes) for s in shapes])


def vision_work_bytes(
    vision: VisionConfig, text_hidden_size: int, number_bytes: int, patches_per_batch: int
) -> float:
    """Of images that are encoded together, or of the largest one."""
    largest = (vision.image_size // vision.patch_size) ** 2
    patches = max(patches_per_batch, largest)
    width, mlp = vision.hidden_size, vision.intermediate_size
    pixels = vision.num_channels * vision.patch_size**2
    # Pixels as they come and cut up, the residual, keys and values; cosines and sines; the norm,
    # its transpose and the merged rows; features while they are put together.
    features = 2 * number_bytes * text_hidden_size / vision.spatial_merge_size**2
    kept = number_bytes * (2 * pixels + 6 * width) + 8 * vision.head_dim + features
    # Queries, keys and values in float32, turned and not; norm, mix, products of the MLP.
    passing = 4 * 8 * width + number_bytes * (6 * width + 4 * mlp)
    return patches * kept + min(patches, VISION_ROWS) * max(
        passing, 3 * number_bytes * text_hidden_size
    )


def step_bytes(
    config: ModelConfig, number_bytes: int, limits: StepLimits, adapter_rank: int = 0
) -> float:
    """Of the largest step: rows of one layer, parts of attention, and the logits of every token.

    ``adapter_rank``: the largest that there may be; 0: no adapters.
    """
    rows = attention_row_bytes(config, number_bytes, adapter_rank)
    rows += expert_row_bytes(config, number_bytes, adapter_rank)
    rows += 4 * config.vocab_size + 2 * number_bytes * config.hidden_size
    segments = segments_of(limits.length)
    return limits.tokens * rows + limits.sequences * segments * _part_bytes(config)


def with_guesses(limits: StepLimits) -> StepLimits:
    """Where each guess of a sequence attends by itself, like one of its own."""
    segments = segments_of(limits.length)
    return limits._replace(sequences=max(limits.sequences, -(-MOST_PARTS // segments)))


def attention_row_bytes(config: ModelConfig, number_bytes: int, adapter_rank: int = 0) -> float:
    """Of a token in a layer's first half, at most."""
    heads = config.num_heads
    narrow = 2 * config.q_lora_rank + config.latent_dim
    of_heads = config.qk_head_dim + config.latent_dim + config.kv_lora_rank + config.v_head_dim
    numbers = 5 * config.hidden_size + narrow + heads * of_heads
    places = 4 * (2 * config.qk_rope_head_dim + 8)
    return number_bytes * numbers + places + 4 * heads * adapter_rank


def expert_row_bytes(config: ModelConfig, number_bytes: int, adapter_rank: int = 0) -> float:
    """Of a token in a layer's second half, at most, its routed experts on the same GPU."""
    hidden, width, top_k = config.hidden_size, config.expert_size, config.num_experts_per_tok
    numbers = 6 * hidden + config.shared_size + top_k * (hidden + width)
    places = 8 * config.num_experts + 64 * top_k  # gate's logits, layouts
    plain = number_bytes * numbers + places
    if not adapter_rank:
        return plain
    # Changed rows, routed and shared: their input, gate and up in float32, products, ranks.
    own = number_bytes * (2 * hidden + width) + 4 * (2 * width + 2 * adapter_rank) + 128
    shared = number_bytes * (2 * hidden + config.shared_size) + 8 * config.shared_size
    return plain + top_k * own + shared + 8 * adapter_rank + 128


def graph_bytes(config: ModelConfig, number_bytes: int, adapter_rank: int = 0) -> float:
    """Of recorded decode steps, which have one memory for the rows of all."""
    rows = attention_row_bytes(config, number_bytes, adapter_rank)
    rows += expert_row_bytes(config, number_bytes, adapter_rank)
    return GRAPH_SIZES[-1] * rows + MOST_PARTS * _part_bytes(config) + MOST_GRAPHS * _GRAPH_BYTES


def _part_bytes(config: ModelConfig) -> float:
    """Of a token that decodes, a segment: sums of all heads, and its blocks' numbers."""
    return 4 * config.num_heads * (config.kv_lora_rank + 2) + _BLOCK_BYTES
