"""The shard's end of a link by NCCL, beside the stream that announces what goes."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Protocol

import torch

from galerne.errors import GalerneError, LinkAbortedError, ProtocolError
from galerne.frame import Frame, FrameHeader, FrameKind
from galerne.hello import Hello, NcclOffer
from galerne.ids import FrameId
from shards.jobs import AnswerLink, Job
from shards.nccl.channel import Channel
from shards.nccl.port import Event
from shards.nccl.runtime import NcclRuntime
from shards.nccl.turns import TurnBook
from shards.nccl.wire import (
    encode_abort,
    encode_reply_head,
    read_abort,
    read_request_indices,
    read_turn,
)
from shards.shm.link import wrong_epoch
from shards.times import NO_TIMES, ShardTimes
from shards.wire import TORCH_DTYPE, Indices, RequestRows

logger = logging.getLogger(__name__)


class ControlStream(AnswerLink, Protocol):
    """The stream beside it. From any thread."""

    def send_answer(self, request: FrameHeader, messages: list[bytes]) -> None:
        """Send what answers a request of the stream."""
        ...

    def send(self, messages: list[bytes]) -> None:
        """Send what answers nothing."""
        ...

    def fail(self, error: ProtocolError) -> None:
        """End the stream."""
        ...


@dataclass(slots=True)
class _Frame:
    """A frame from its announcement until its rows are gone."""

    header: FrameHeader
    indices: Indices
    is_settled: bool = False  # the stream has told the gateway what becomes of it
    rows: torch.Tensor | None = None  # none: refused, and whatever goes back means nothing
    fence: Event | None = None  # of the rows


class NcclLink:
    """Implements ``AnswerLink``, for frames that the stream hands to ``take``."""

    def __init__(
        self,
        hello: Hello,
        offer: NcclOffer,
        epochs: AbstractSet[int],
        stream: ControlStream,
        submit: Callable[[Job], None],
        runtime: NcclRuntime,
        compute_device: torch.device,
    ) -> None:
        """``submit`` takes frames to compute, with tokens on ``compute_device``."""
        self._hello, self._id = hello, bytes.fromhex(offer.id)
        self._epochs, self._stream, self._submit = epochs, stream, submit
        self._runtime, self._compute_device = runtime, compute_device
        self._lock = threading.Lock()  # of what follows; no call of NCCL is made under it
        self._book = TurnBook()
        self._frames: dict[FrameId, _Frame] = {}
        self._channel: Channel | None = None
        self._abort_reason: str | None = None

    def start(self) -> None:
        """Join; frames that are announced meanwhile wait."""
        self._runtime.join(self._id, 1, self._joined)

    def _joined(self, channel: Channel | None, problem: str) -> None:
        if channel is None:
            self._end(problem, tells_peer=True)
            return
        with self._lock:
            self._channel = channel
            ended = self._abort_reason
        self._runtime.serve(channel, self._given_up)
        if ended is not None:
            self._runtime.give_up(channel, ended)
        self._runtime.submit(self._advance)

    # -- on the stream's loop ------------------------------------------------------------------

    def take(self, frame: Frame) -> None:
        """An announcement of the gateway.

        Raises:
            ProtocolError: It contradicts itself or what came before.
        """
        if frame.header.kind is FrameKind.LINK_ABORT:
            self._end(f"the gateway: {read_abort(frame)}", tells_peer=False)
            return
        header, turn = frame.header, read_turn(frame)
        indices = read_request_indices(frame) if turn.sent is not None else None
        with self._lock:
            ended = self._abort_reason
            if ended is None:
                self._book.announce(turn)
                if indices is not None:
                    self._frames[FrameId(header.frame)] = _Frame(header, indices)
        if indices is not None and ended is not None:
            self._stream.refuse(header, LinkAbortedError(ended))
        elif indices is not None and header.epoch not in self._epochs:
            self.refuse(header, wrong_epoch(self._epochs, header.epoch))
        self._runtime.submit(self._advance)

    def close(self) -> None:
        """The stream has ended."""
        self._end("the stream has ended", tells_peer=False, is_over=True)

    # -- from the compute thread ---------------------------------------------------------------

    def answer(
        self, request: FrameHeader, rows: torch.Tensor, times: ShardTimes = NO_TIMES
    ) -> None:
        """See ``AnswerLink``; the rows go from where they are, and must stay as they are."""
        port = self._runtime.port
        there = rows.to(port.device).contiguous()
        settled = self._settle(request, there, port.fence())
        if settled:
            self._stream.send_answer(request, encode_reply_head(request, times))
            self._runtime.submit(self._advance)

    def refuse(self, request: FrameHeader, error: GalerneError) -> None:
        """See ``AnswerLink``. Rows go back all the same, as the turn wants it, and mean nothing."""
        if self._settle(request, None, None):
            self._stream.refuse(request, error)
            self._runtime.submit(self._advance)

    def _settle(self, request: FrameHeader, rows: torch.Tensor | None, fence: Event | None) -> bool:
        """Whether the gateway is still to be told of this frame."""
        with self._lock:
            frame = self._frames.get(FrameId(request.frame))
            if frame is None or frame.is_settled:
                return False
            frame.is_settled, frame.rows, frame.fence = True, rows, fence
            self._book.answered(FrameId(request.frame))
            return True

    # -- on the issuing thread -----------------------------------------------------------------

    def _advance(self) -> None:
        """Call for all turns whose rows are there."""
        while True:
            with self._lock:
                channel = self._channel
                if channel is None or channel.reason or self._abort_reason is not None:
                    return
                turn = self._book.next()
                if turn is None:
                    return
                answers = [self._frames.pop(frame) for frame in turn.answers]
                sent = None if turn.sent is None else self._frames[turn.sent]
            with self._runtime.calling_for(channel):
                self._post(channel, sent, answers)

    def _post(self, channel: Channel, sent: _Frame | None, answers: list[_Frame]) -> None:
        port = self._runtime.port
        sends = [self._empty(f, f.header.num_rows) if f.rows is None else f.rows for f in answers]
        fences = [frame.fence for frame in answers if frame.fence is not None]
        receives = [] if sent is None else [self._empty(sent, sent.header.num_tokens)]
        fences.append(port.fence())  # of what is made here

        def done() -> None:
            if sent is not None and not sent.is_settled:
                tokens = receives[0].to(self._compute_device)
                rows = RequestRows(tokens, *sent.indices)
                self._submit(Job(sent.header, rows, self, time.monotonic()))

        channel.post(sends, receives, fences, done)

    def _empty(self, frame: _Frame, num_rows: int) -> torch.Tensor:
        header = frame.header
        return self._runtime.port.empty((num_rows, header.hidden_size), TORCH_DTYPE[header.dtype])

    # -- the end -------------------------------------------------------------------------------

    def _given_up(self, reason: str) -> None:
        self._end(reason, tells_peer=True)

    def _end(self, reason: str, *, tells_peer: bool, is_over: bool = False) -> None:
        """From any thread: what was not computed is refused, so that it comes by the stream."""
        with self._lock:
            if self._abort_reason is not None:
                return
            self._abort_reason = reason
            channel = self._channel
            unsettled = [f.header for f in self._frames.values() if not f.is_settled]
        level = logging.INFO if is_over else logging.WARNING
        logger.log(level, "nccl_link_ended gateway=%s reason=%s", self._hello.gateway, reason)
        if channel is not None:
            self._runtime.give_up(channel, reason)
        if tells_peer:
            self._stream.send(encode_abort(self._hello.incarnation, reason))
        for header in unsettled:
            self.refuse(header, LinkAbortedError(reason))
        with self._lock:  # the device lets go of this memory at the end of the abort, see Channel
            self._frames.clear()
