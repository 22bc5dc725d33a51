"""The Eagle head's forward pass: embedding of a token and state before it in, next state out.

Source: model reference, section 6; Li et al., arXiv:2401.15077, section 3. Its own latent cache has
the slots of the large model's: row t holds token t + 1 and the state h_t. What it computes decides
how often guesses are right, never a token: see ``router.engine.stepper``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from galerne.ids import ShardId
from router.exchange.local import LocalExperts
from router.model.batch import Chunk, build_batch
from router.model.decoder import Decoder, MicroBatch, load_layers, run_layers
from router.model.device_sizes import NUM_SCRATCH
from router.model.kv_cache import PagedLatentCache
from router.profiling import LayerTimer
from shards.bank import ExpertBank
from shards.checkpoint.eagle import FUSE, EagleCheckpoint
from shards.kernels.formats import WeightFormat
from shards.kernels.kinds import CPU, Kernels, kernels_on, torch_device
from shards.kernels.linear import Linear


class EagleHead:
    """Weights and cache of one head, beside the decoder whose embedding and output it shares."""

    def __init__(
        self,
        checkpoint: EagleCheckpoint,
        decoder: Decoder,
        num_blocks: int,
        block_size: int,
        dtype: torch.dtype,
        num_threads: int,
        device: str = CPU,
    ) -> None:
        """Load.

        Args:
            checkpoint: Of the head.
            decoder: Of the large model, on the same device.
            num_blocks: Of the large model's cache.
            block_size: The same.
            dtype: bfloat16 or float32.
            num_threads: Who computes in native kernels; changes no bit.
            device: cpu, or cuda.

        Raises:
            ConfigError: The device is not here.
        """
        config = checkpoint.config
        self.first_scratch = num_blocks
        self.block_size = block_size
        self._decoder = decoder
        self._dtype = dtype
        self._num_layers = config.num_layers
        self._fuse = _fuse(checkpoint, dtype, num_threads, device)
        threads, held = (num_threads, num_threads), WeightFormat.BF16
        self._layers = load_layers(checkpoint, dtype, *threads, held, lambda loaded: None, device)
        only = {layer: (0,) for layer in range(config.num_layers)}
        bank = ExpertBank(checkpoint, only, dtype, num_threads=num_threads, device=device)
        self._experts = LocalExperts(bank, [ShardId("eagle")])
        self._cache = PagedLatentCache(config, num_blocks + NUM_SCRATCH, block_size, dtype, device)
        self._timer = LayerTimer()

    @torch.inference_mode()
    def run(self, chunks: Sequence[Chunk], states: torch.Tensor) -> torch.Tensor:
        """The head's states, written to its cache on the way.

        Args:
            chunks: Of every row the *next* token; ``start`` is the position of the first row's own.
            states: ``[T, H]`` of the rows: the large model's, or the head's from its last guess.

        Returns:
            ``[T, H]`` normed: ``logits`` of a row say what follows its next token.
        """
        batch = build_batch(chunks, self._cache)
        embedded = self._decoder.embed(batch.token_ids)[: batch.num_tokens]
        fused = self._fuse(torch.cat((embedded, states), dim=1)).to(self._dtype)
        hidden = fused.new_zeros((batch.num_rows, fused.shape[1]))
        hidden[: batch.num_tokens] = fused
        micro = MicroBatch(batch, hidden, self._layers.begin(batch, self._cache))
        (out,) = run_layers(self._num_layers, [micro], self._experts, self._timer)
        return out[: batch.num_tokens]

    @torch.inference_mode()
    def logits(self, states: torch.Tensor) -> torch.Tensor:
        """``[T, V]`` float32 of ``[T, H]`` states."""
        return self._decoder.logits(states)


def _fuse(
    checkpoint: EagleCheckpoint, dtype: torch.dtype, num_threads: int, device: str
) -> Callable[[torch.Tensor], torch.Tensor]:
    """``[T, 2 H]`` -> ``[T, H]``."""
    stored = checkpoint.dense(FUSE)
    if kernels_on(device) is Kernels.HOST:
        return Linear(stored.to(dtype), num_threads)
    from shards.kernels.gpu.linear import DeviceLinear
    from shards.kernels.gpu.weights import to_device

    held = WeightFormat.BF16
    weight = to_device(stored.kept_as(held, dtype), held, dtype, torch_device(device))
    return DeviceLinear(weight, dtype)
