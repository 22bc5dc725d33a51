"""The paged latent cache: per token and layer, latent after its norm and key after RoPE."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from router.model.cache_size import block_bytes
from shards.checkpoint.config import ModelConfig
from shards.kernels.kinds import CPU, torch_device
from shards.kernels.native.arena import huge_pages


class PagedLatentCache:
    """``[layers, blocks, block_size, latent_dim]``; block 0 is never owned by a sequence.

    Source: model reference, section 2, step 6: 320 numbers per token and layer in Small 4.
    """

    def __init__(
        self,
        config: ModelConfig,
        num_blocks: int,
        block_size: int,
        dtype: torch.dtype,
        device: str = CPU,
    ) -> None:
        """Zeroed, because blocks past a sequence's end are read and masked.

        Host memory is taken when a block is first written: a pool that is hardly used takes little.
        """
        self.block_size = block_size
        shape = (config.num_layers, num_blocks, block_size, config.latent_dim)
        if device == CPU:
            num_bytes = num_blocks * self.bytes_per_block(config, block_size, dtype)
            self._data = huge_pages(num_bytes)[:num_bytes].view(dtype).view(shape)
        else:
            self._data = torch.zeros(shape, dtype=dtype, device=torch_device(device))

    @staticmethod
    def bytes_per_block(config: ModelConfig, block_size: int, dtype: torch.dtype) -> int:
        """Bytes of one block over all layers."""
        return block_bytes(config, block_size, dtype.itemsize)

    def layer(self, layer: int) -> torch.Tensor:
        """``[blocks, block_size, latent_dim]`` of one layer, to be written to."""
        return self._data[layer]

    @property
    def num_blocks(self) -> int:
        """Blocks of a layer."""
        return self._data.shape[1]

    def write(self, layer: int, slots: torch.Tensor, latents: torch.Tensor) -> None:
        """Store ``[T, latent_dim]`` at ``[T]`` slots (block * block_size + place).

        What is not finite is stored as 0: masked keys have weight 0, but 0 times NaN is NaN, and a
        block's next owner must not suffer for its last. The token's own logits stay NaN.
        """
        flat = self._data[layer].view(-1, self._data.shape[-1])
        finite = latents.to(flat.dtype).nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
        flat.index_copy_(0, slots, finite)

    def blocks(self, layer: int, block_ids: torch.Tensor) -> torch.Tensor:
        """``[..., n]`` block ids -> ``[..., n * block_size, latent_dim]`` float32."""
        rows = self._data[layer].index_select(0, block_ids.reshape(-1)).float()
        return rows.view(*block_ids.shape[:-1], -1, rows.shape[-1])

    def sequence(self, layer: int, block_ids: list[int], num_tokens: int) -> torch.Tensor:
        """``[num_tokens, latent_dim]`` of one sequence, as stored (for tests and transfer)."""
        ids = torch.tensor(block_ids, dtype=torch.int64)
        return self._data[layer][ids].reshape(-1, self._data.shape[-1])[:num_tokens]

    def slots(self, block_ids: list[int], start: int, num_tokens: int) -> npt.NDArray[np.int64]:
        """Slots of ``num_tokens`` positions from ``start`` on."""
        size, first = self.block_size, start // self.block_size
        positions = np.arange(start, start + num_tokens)
        used = block_ids[first : -(-(start + num_tokens) // size)]
        table = np.asarray(used, dtype=np.int64)
        slots: npt.NDArray[np.int64] = table[positions // size - first] * size + positions % size
        return slots
