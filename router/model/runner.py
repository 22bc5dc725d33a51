"""Runs one step of the model: chunks of sequences in, logits out. One port, two modes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch

from galerne.errors import InvalidRequestError
from router.engine.request import ImageInput
from router.model.batch import Chunk, build_batch
from router.model.decoder import Decoder, MicroBatch
from router.model.experts_port import RoutedExperts
from router.model.image_encoder import ImageEncoder
from router.model.images import image_token_positions
from router.model.kv_cache import PagedLatentCache
from router.model.reference import ReferenceModel
from router.model.vision import VisionTower
from router.model.vision_limits import VisionLimits
from router.profiling import LayerTimer, StepWatch
from shards.adapters.adapter import key_of

Logits = npt.NDArray[np.float32]


class SequenceChunk(NamedTuple):
    """Positions ``[start, start + num_tokens)`` of one sequence, to be computed in this step."""

    token_ids: Sequence[int]  # the whole sequence known so far
    start: int
    num_tokens: int
    block_ids: list[int]
    num_logits: int  # how many of the last tokens' logits are wanted
    images: tuple[ImageInput, ...] = ()
    adapter: int = 0  # key of the sequence's adapter; 0: none


class ModelRunner(Protocol):
    """The engine's view of the model."""

    def run(self, step: int, chunks: Sequence[SequenceChunk]) -> Logits:
        """``[sum of num_logits, V]`` float32, chunk after chunk.

        Raises:
            ShardUnavailableError: Experts stayed away; the step may be run again.
        """
        ...

    def check_adapter(self, adapter: str) -> None:
        """Raises InvalidRequestError if the adapter of this id is not here; empty: none."""
        ...

    @property
    def images(self) -> ImageEncoder | None:
        """Encodes images between steps; None where the model takes none."""
        ...

    def poll(self) -> None:
        """Take in events between steps."""
        ...

    def unready_reason(self) -> str | None:
        """Why a step could not finish now, or None. Asked from any thread."""
        ...

    def close(self) -> None:
        """Release links and threads."""
        ...


class PagedRunner:
    """The serving mode: paged cache, absorbed attention, experts over the exchange."""

    def __init__(
        self,
        decoder: Decoder,
        cache: PagedLatentCache,
        exchange: RoutedExperts,
        tower: VisionTower | None,
        num_micro_batches: int = 1,
        vision: VisionLimits | None = None,
    ) -> None:
        self.cache = cache
        self.exchange = exchange
        self.timer = LayerTimer()
        self.decoder = decoder
        self.states: torch.Tensor | None = None  # [T, H] normed, of the newest step's tokens
        self.images = None if tower is None else ImageEncoder(tower, vision)
        self.num_micro_batches = num_micro_batches

    def watch(self, watch: StepWatch | None) -> None:
        """Tell of what steps do from now on; None: nobody. On the engine's thread."""
        self.timer.watch = watch
        self.exchange.watch(watch)

    @torch.inference_mode()
    def run(self, step: int, chunks: Sequence[SequenceChunk]) -> Logits:
        """See ``ModelRunner.run``."""
        try:
            return self._run(step, chunks)
        except BaseException:
            self.exchange.abandon()  # other micro-batches may still be away
            raise

    def _run(self, step: int, chunks: Sequence[SequenceChunk]) -> Logits:
        self.exchange.start_step(step)
        groups = split_evenly(chunks, self.num_micro_batches)
        with self.timer.part("embed"):
            micros = [self._micro_batch(group) for group in groups]
        states = self.decoder.forward(micros, self.exchange, self.timer)
        with self.timer.part("head"):
            whole = [x[: m.batch.num_tokens] for x, m in zip(states, micros, strict=True)]
            self.states = whole[0] if len(whole) == 1 else torch.cat(whole)
            wanted = [x[m.batch.logit_rows] for x, m in zip(states, micros, strict=True)]
            hidden = torch.cat(wanted)
            if not len(hidden):
                return np.zeros((0, self.decoder.config.vocab_size), dtype=np.float32)
            logits: Logits = self.decoder.logits(hidden).numpy()
            return logits

    def check_adapter(self, adapter: str) -> None:
        """See ``ModelRunner.check_adapter``."""
        if adapter and key_of(adapter) not in self.decoder.adapters:
            raise InvalidRequestError("model", f"adapter {adapter[:32]} is not loaded")

    @torch.inference_mode()
    def poll(self) -> None:
        """See ``ModelRunner.poll``."""
        self.exchange.poll()

    def unready_reason(self) -> str | None:
        """Named shards whose experts have no copy that can be reached."""
        missing = self.exchange.unreachable()
        return f"no live copy of experts on {', '.join(missing)}" if missing else None

    def close(self) -> None:
        """Close the exchange."""
        self.exchange.close()

    def _micro_batch(self, chunks: Sequence[SequenceChunk]) -> MicroBatch:
        batch = build_batch(
            [
                Chunk(
                    c.token_ids[c.start : c.start + c.num_tokens],
                    c.start,
                    c.block_ids,
                    c.num_logits,
                    c.adapter,
                )
                for c in chunks
            ],
            self.cache,
        )
        micro = self.decoder.micro_batch(batch, self.cache)
        first = 0
        for chunk in chunks:
            if chunk.images:
                rows = micro.hidden[first : first + chunk.num_tokens]
                _seen_by(self.images).overwrite(rows, chunk.start, chunk.images)
            first += chunk.num_tokens
        return micro


class ReferenceRunner:
    """The reference mode: no cache, every chunk recomputes its sequence in float32."""

    def __init__(self, model: ReferenceModel, tower: VisionTower | None) -> None:
        self._model = model
        self.images = None if tower is None else ImageEncoder(tower)

    def run(self, step: int, chunks: Sequence[SequenceChunk]) -> Logits:
        """See ``ModelRunner.run``."""
        del step
        rows = [self._chunk_logits(c) for c in chunks]
        return np.concatenate(rows)

    def check_adapter(self, adapter: str) -> None:
        """See ``ModelRunner.check_adapter``."""
        if adapter:
            raise InvalidRequestError("model", "the reference mode takes no adapters")

    def poll(self) -> None:
        """Nothing happens between steps."""

    def unready_reason(self) -> str | None:
        """Nothing can be missing."""
        return None

    def close(self) -> None:
        """Nothing to release."""

    def _chunk_logits(self, chunk: SequenceChunk) -> Logits:
        stop = chunk.start + chunk.num_tokens
        image_rows = []
        for image in chunk.images:
            features = _seen_by(self.images).features_of(image)
            for position, feature in zip(*image_token_positions(image), strict=True):
                if position < stop:
                    image_rows.append((int(position), features[feature]))
        output = self._model.forward(chunk.token_ids[:stop], image_rows)
        logits: Logits = output.logits[stop - chunk.num_logits :].numpy()
        return logits


def _seen_by(encoder: ImageEncoder | None) -> ImageEncoder:
    if encoder is None:
        raise InvalidRequestError("images", "this model takes no images")
    return encoder


def split_evenly(chunks: Sequence[SequenceChunk], num_parts: int) -> list[Sequence[SequenceChunk]]:
    """Consecutive groups of chunks with about equal numbers of tokens; empty ones left out."""
    total = sum(c.num_tokens for c in chunks)
    groups: list[list[SequenceChunk]] = [[] for _ in range(num_parts)]
    seen = 0
    for chunk in chunks:
        groups[min(seen * num_parts // total, num_parts - 1)].append(chunk)
        seen += chunk.num_tokens
    return [group for group in groups if group]
