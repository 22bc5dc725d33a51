"""Multi-head latent attention over the paged cache, absorbed for every token.

Design section 5: keys are walked in blocks fixed by absolute position and partial results joined in
block order, so a token's output does not depend on batch, chunk or prefix hits. Scores, softmax and
values are float32 from the stored (rounded) cache.
"""

from __future__ import annotations

import torch

from router.model.adapted_rows import AdaptedRows
from router.model.batch import KEY_BLOCK, DecodeGroup, PrefillGroup, StepBatch
from router.model.kv_cache import PagedLatentCache
from router.model.norm import rms_norm
from router.model.rope import Rotation, softmax_scale
from shards.checkpoint.weights import Checkpoint
from shards.kernels.row_invariant import TILE, linear, pad_rows, padded_rows


class OnlineSoftmax:
    """Running softmax-weighted sum over key blocks, joined in the order they come.

    Source: Milakov and Gimelshein, arXiv:1805.02867; a block that is masked out changes no bit.
    """

    def __init__(self, shape: tuple[int, ...], value_dim: int) -> None:
        """``shape`` are the query rows."""
        self._max = torch.full((*shape, 1), -torch.inf)
        self._sum = torch.zeros((*shape, 1))
        self._acc = torch.zeros((*shape, value_dim))

    def join(self, rows: slice, scores: torch.Tensor, values: torch.Tensor) -> None:
        """Add one block: ``scores`` ``[..., n, KEY_BLOCK]``, ``values`` ``[..., KEY_BLOCK, dv]``.

        ``rows`` are the leading query rows (of the first dimension) that see this block.
        """
        new_max = torch.maximum(self._max[rows], scores.amax(dim=-1, keepdim=True))
        decay = torch.exp(self._max[rows] - new_max)
        p = torch.exp_(scores.sub_(new_max))
        self._sum[rows] = self._sum[rows] * decay + p.sum(dim=-1, keepdim=True)
        # A 2-d product goes through the row-invariant one; a batch of fixed small ones is as good.
        weighted = linear(p, values.t()) if p.dim() == 2 else torch.bmm(p, values)
        self._acc[rows] = self._acc[rows] * decay + weighted
        self._max[rows] = new_max

    def result(self) -> torch.Tensor:
        """``[..., value_dim]``."""
        return self._acc / self._sum


class LatentAttention:
    """One layer's attention. Notation as in the model reference, section 2.

    H heads, dn = qk_nope, dr = qk_rope, dv = value width, dc = kv_lora_rank.
    """

    def __init__(self, checkpoint: Checkpoint, layer: int, dtype: torch.dtype) -> None:
        """Load the layer's weights; ``U_k`` and ``U_v`` of the absorbed form stay float32."""
        config = checkpoint.config

        def weight(name: str, to: torch.dtype = dtype) -> torch.Tensor:
            return checkpoint.dense(f"layers.{layer}.{name}").to(to)

        self._config = config
        self._layer = layer
        self._scale = softmax_scale(config)
        self._qkv_a = torch.cat([weight("q_a"), weight("kv_a")])  # both read the same rows
        self._q_b = weight("q_b")
        self._o = weight("o")
        self._q_a_norm = weight("q_a_norm", torch.float32)
        self._kv_a_norm = weight("kv_a_norm", torch.float32)
        both = weight("kv_b", torch.float32).view(config.num_heads, -1, config.kv_lora_rank)
        self._u_k = both[:, : config.qk_nope_head_dim].contiguous()  # [H, dn, dc]
        self._u_v = both[:, config.qk_nope_head_dim :].transpose(1, 2).contiguous()  # [H, dc, dv]

    def forward(
        self,
        hidden: torch.Tensor,
        batch: StepBatch,
        rotation: Rotation,
        temperature: torch.Tensor,
        cache: PagedLatentCache,
        adapted: AdaptedRows,
    ) -> torch.Tensor:
        """``[num_rows, hidden]`` normed input -> output of W_o, same shape and dtype.

        Writes the new tokens' latents to the cache before reading it.
        """
        config = self._config
        both = linear(hidden, self._qkv_a)
        q_a, latent = both[:, : config.q_lora_rank], both[:, config.q_lora_rank :]
        adapted.add(self._layer, "q_a", q_a, hidden)
        adapted.add(self._layer, "kv_a", latent, hidden)
        queries = self._queries(q_a, rotation, temperature, adapted)
        self._store(latent, batch, rotation, cache)
        mixed = torch.zeros((batch.num_rows, config.num_heads, config.kv_lora_rank))
        if batch.decodes is not None:
            group = batch.decodes
            mixed[group.rows] = self._attend_decodes(queries[group.rows], group, cache)
        for chunk in batch.prefills:
            rows = slice(chunk.first_row, chunk.first_row + chunk.num_tokens)
            mixed[rows] = self._attend_prefill(queries[rows], chunk, cache)
        values = torch.bmm(mixed.transpose(0, 1), self._u_v)  # [H, rows, dv]
        adapted.add_values(self._layer, values, mixed)
        flat = values.transpose(0, 1).reshape(batch.num_rows, -1).to(hidden.dtype)
        out = linear(flat, self._o)
        adapted.add(self._layer, "o", out, flat)
        return out

    def _queries(
        self,
        q_a: torch.Tensor,
        rotation: Rotation,
        temperature: torch.Tensor,
        adapted: AdaptedRows,
    ) -> torch.Tensor:
        """Absorbed queries ``[rows, H, dc + dr]`` float32, scaled for the softmax."""
        config = self._config
        normed = rms_norm(q_a, self._q_a_norm, config.norm_eps)
        q = linear(normed, self._q_b)
        adapted.add(self._layer, "q_b", q, normed)
        q = q.float()
        q = q.view(-1, config.num_heads, config.qk_head_dim)
        q_n, q_r = q[..., : config.qk_nope_head_dim], q[..., config.qk_nope_head_dim :]
        absorbed = torch.bmm(q_n.transpose(0, 1), self._u_k).transpose(0, 1)  # [rows, H, dc]
        adapted.add_absorbed(self._layer, absorbed, q_n, config.v_head_dim)
        full = torch.cat((absorbed, rotation.apply(q_r)), dim=-1)
        return full * (temperature * self._scale)[:, None, None]

    def _store(
        self, latent: torch.Tensor, batch: StepBatch, rotation: Rotation, cache: PagedLatentCache
    ) -> None:
        config = self._config
        c = rms_norm(latent[:, : config.kv_lora_rank], self._kv_a_norm, config.norm_eps)
        k_r = rotation.apply(latent[:, config.kv_lora_rank :].float()).to(latent.dtype)
        rows = torch.cat((c, k_r), dim=-1)[: batch.num_tokens]
        cache.write(self._layer, torch.from_numpy(batch.slots), rows)

    def _attend_decodes(
        self, queries: torch.Tensor, group: DecodeGroup, cache: PagedLatentCache
    ) -> torch.Tensor:
        """``[B, H, dc + dr]`` -> ``[B, H, dc]``; sequences come longest first."""
        num_heads, value_dim = queries.shape[1], self._config.kv_lora_rank
        padded = queries.new_zeros((len(queries), padded_rows(num_heads), queries.shape[2]))
        padded[:, :num_heads] = queries
        softmax = OnlineSoftmax(tuple(padded.shape[:2]), value_dim)
        offsets = torch.arange(KEY_BLOCK)
        for block in range(group.tables.shape[1]):
            first = block * KEY_BLOCK
            active = slice(0, int((group.positions >= first).sum()))
            keys = cache.blocks(self._layer, group.tables[active, block])  # [b, KEY_BLOCK, dc+dr]
            scores = torch.bmm(padded[active], keys.transpose(1, 2))
            hidden_keys = first + offsets[None, :] > group.positions[active, None]
            scores.masked_fill_(hidden_keys[:, None], -torch.inf)
            softmax.join(active, scores, keys[..., :value_dim])
        return softmax.result()[:, :num_heads]

    def _attend_prefill(
        self, queries: torch.Tensor, chunk: PrefillGroup, cache: PagedLatentCache
    ) -> torch.Tensor:
        """``[n, H, dc + dr]`` -> ``[n, H, dc]``, causal within the chunk.

        Rows are laid out last token first, so that the tokens that see a later key block are a
        prefix.
        """
        n, num_heads, value_dim = *queries.shape[:2], self._config.kv_lora_rank
        flipped = pad_rows(queries.flip(0))
        positions = torch.full((len(flipped),), chunk.start)  # of padding: any
        positions[:n] = torch.arange(chunk.start + n - 1, chunk.start - 1, -1)
        flat = flipped.reshape(len(flipped) * num_heads, -1)
        softmax = OnlineSoftmax((len(flat),), value_dim)
        offsets = torch.arange(KEY_BLOCK)
        for block in range(len(chunk.table)):
            first = block * KEY_BLOCK
            seeing = len(flipped) if first <= chunk.start else chunk.start + n - first
            tokens = min(len(flipped), padded_rows(seeing))
            rows = slice(0, tokens * num_heads)
            keys = cache.blocks(self._layer, chunk.table[block])  # [KEY_BLOCK, dc + dr]
            scores = linear(flat[rows], keys).view(tokens, num_heads, KEY_BLOCK)
            hidden_keys = first + offsets[None, :] > positions[:tokens, None]
            scores.masked_fill_(hidden_keys[:, None], -torch.inf)
            softmax.join(rows, scores.view(-1, KEY_BLOCK), keys[:, :value_dim])
        return softmax.result().view(len(flipped), num_heads, value_dim)[:n].flip(0)


assert KEY_BLOCK % TILE == 0
