"""The engine: a thread that takes commands, runs steps and hands out deltas."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import TypeVar

from galerne.clock import Clock
from galerne.errors import EpochRetiredError, GalerneError, NotServingError, OverloadedError
from galerne.ids import Epoch
from router.engine.block_pool import BlockPool
from router.engine.commands import Command, settle
from router.engine.gateway_port import GatewayLoad
from router.engine.guide import Guide
from router.engine.load_counter import DRAFT_PART, IMAGE_PART, LoadCounter, LoadTotals
from router.engine.metrics import EngineMetrics
from router.engine.plan import StepPlan
from router.engine.preparing import Preparing
from router.engine.recording import NULL_RECORDER, StepRecorder
from router.engine.request import FinishReason, GenerationRequest, TokenDelta
from router.engine.scheduler import Scheduler
from router.engine.scheduler_config import SchedulerConfig
from router.engine.sequence import Sequence as Choice
from router.engine.speculation.port import NO_DRAFTING, Drafting
from router.engine.step_runner_port import StepRunner
from router.engine.stepper import Stepper
from router.profiling import LayerTimer

logger = logging.getLogger(__name__)

IDLE_WAIT_S = 0.1
RETRY_AFTER_S = 1.0
RETIRED_WAIT_S = 0.05  # between two attempts at a step whose topology is retired
RETIRED_PATIENCE_S = 30.0  # for the next topology; then streams go on at another gateway
STALL_S = 90.0  # a step may wait for experts up to the exchange's limit; beyond it the loop hangs

_T = TypeVar("_T")


class Engine:
    """Owns scheduler and model; every other thread talks to it by commands."""

    def __init__(
        self,
        scheduler: Scheduler,
        pool: BlockPool,
        runner: StepRunner,
        stepper: Stepper,
        clock: Clock,
        max_waiting: int,
        on_deltas: Callable[[Sequence[TokenDelta]], None],
        recorder: StepRecorder = NULL_RECORDER,
        drafting: Drafting = NO_DRAFTING,
    ) -> None:
        """``on_deltas`` gets all deltas of a step at once, on the engine's thread."""
        self.drafting = drafting
        self.metrics = EngineMetrics(self.load)
        self.timer = LayerTimer()
        self._scheduler = scheduler
        self._pool = pool
        self._runner = runner
        self._stepper = stepper
        self._clock = clock
        self._max_waiting = max_waiting
        self._on_deltas = on_deltas
        self._recorder = recorder
        self._preparing = Preparing(runner.preparer, self._join, self._refuse)
        self._commands: queue.SimpleQueue[Command] = queue.SimpleQueue()
        self._lock = threading.Lock()  # of the next two
        self._num_submitted = 0  # choices on their way to the scheduler
        self._is_closed = False
        self._is_stopping = False
        self._last_turn_s = clock.now_s()
        self._loads = LoadCounter(clock.now_s())
        self.num_steps = 0
        self._retired_since_s: float | None = None  # its topology is of no more use
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    # -- called from other threads -----------------------------------------------------------

    def start(self) -> None:
        """Start the loop."""
        self._thread.start()

    def submit(self, request: GenerationRequest, guides: Sequence[Guide] = ()) -> Future[None]:
        """Queue a request; the future says whether it was admitted.

        It raises OverloadedError (queue full, at once even while a step is stuck) or
        InvalidRequestError (can never run here). With images it comes when they are encoded.
        ``guides``: for a request with rules, see ``GuideMaker``.
        """
        num_choices = len(request.open_choices)
        with self._lock:
            known = self._scheduler.num_waiting + self._num_submitted
            if not request.resumed and known + num_choices > self._max_waiting:
                refused: Future[None] = Future()
                refused.set_exception(
                    OverloadedError("request queue", self._max_waiting, RETRY_AFTER_S)
                )
                return refused
            self._num_submitted += num_choices
        now = self._clock.now_s()
        self._loads.arrived(request, now)
        return self._call(lambda: self._add(request, guides, now))

    def abort(self, request_id: str, choice: int | None = None) -> Future[bool]:
        """End a request, or one choice of it, at the next step; whether it was running."""
        return self._call(lambda: self._abort(request_id, choice))

    def preempt(self, request_id: str) -> Future[int]:
        """Force a request to give up its blocks and recompute; how many choices did."""
        return self._call(lambda: self._preempt(request_id))

    def reconfigure(self, epoch: Epoch, config: SchedulerConfig) -> Future[None]:
        """Other limits from the next step on: those of ``epoch``."""
        return self._call(lambda: self._reconfigure(epoch, config))

    def between_steps(self, what: Callable[[], _T]) -> Future[_T]:
        """Run something on the engine's thread while no step runs."""
        return self._call(what)

    def load(self) -> GatewayLoad:
        """A snapshot; reads counters only."""
        return GatewayLoad(
            running=self._scheduler.num_running,
            waiting=self._scheduler.num_waiting + self._preparing.num_choices,
            max_waiting=self._max_waiting,
            kv_blocks_used=self._pool.num_used,
            kv_blocks=self._pool.num_usable,
            preemptions=self._scheduler.num_preemptions,
            prefix_hit_tokens=self._scheduler.prefix_hit_tokens,
            prefix_query_tokens=self._scheduler.prefix_query_tokens,
        )

    def load_totals(self) -> LoadTotals:
        """All load so far; what waits includes what is on its way to the scheduler."""
        scheduler = self._scheduler
        return replace(
            self._loads.totals(self._clock.now_s()),
            admitted=scheduler.num_begun,
            prompt_tokens=scheduler.begun_prompt_tokens,
            steps=self.num_steps,
            waiting=scheduler.num_waiting + self._num_submitted,
            running=scheduler.num_running,
        )

    def unready_reason(self) -> str | None:
        """Why a request could not be served now, or None."""
        if not self._thread.is_alive():
            return "the engine loop is not running"
        if self._clock.now_s() - self._last_turn_s > STALL_S:
            return f"the engine loop has not moved for {STALL_S:g} s"
        if self._retired_since_s is not None:
            return "its topology is retired, and the next one has not come yet"
        return self._runner.unready_reason()

    @property
    def is_alive(self) -> bool:
        """Whether the loop runs; once it has ended, nothing more is served here."""
        return self._thread.is_alive()

    @property
    def is_closed(self) -> bool:
        """Whether it has ended, or is ending, and what it ran may go on elsewhere."""
        return self._is_closed

    def drain(self, drain_s: float) -> None:
        """Return when nothing runs any more, at the latest after ``drain_s``."""
        deadline = self._clock.now_s() + drain_s
        while self._has_work and self._clock.now_s() < deadline:
            threading.Event().wait(0.02)

    def stop(self) -> None:
        """Abort what runs, end the thread."""
        self._is_stopping = True
        if self._thread.is_alive():
            self._thread.join(STALL_S)
        self._runner.close()

    def _call(self, what: Callable[[], _T | Future[_T]]) -> Future[_T]:
        """Run something on the engine's thread. A caller that gave up changes nothing there."""
        future: Future[_T] = Future()
        with self._lock:
            if self._is_closed:
                future.set_exception(NotServingError("the engine has stopped"))
            else:
                self._commands.put(lambda: settle(future, what))
        return future

    # -- the loop ----------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._runner.on_thread_start()
            while not self._is_stopping:
                self._turn()
        except Exception:
            logger.exception("engine_loop_died step=%d", self.num_steps)
        finally:
            self._end_all()

    def _end_all(self) -> None:
        """Nothing is left waiting: commands are answered, every open request gets its end."""
        with self._lock:
            self._is_closed = True
        while not self._commands.empty():
            self._commands.get_nowait()()
        self._preparing.close(NotServingError("the engine has stopped"))
        for request in self._scheduler.requests:
            try:
                self._abort(request.request_id)
            except Exception:
                logger.exception("engine_abort_failed request=%s", request.request_id)
        self._recorder.close()

    def _turn(self) -> None:
        self.take_commands(self._idle_s())
        self._runner.poll()
        self._last_turn_s = self._clock.now_s()
        self.metrics.loops.inc()
        self.prepare_some()
        if self._scheduler.has_work:
            self.step()

    def _idle_s(self) -> float:
        """How long to wait for a command before the next step."""
        if self._retired_since_s is not None:
            return RETIRED_WAIT_S
        return 0.0 if self._has_work else IDLE_WAIT_S

    @property
    def _has_work(self) -> bool:
        return self._scheduler.has_work or self._preparing.is_busy

    def prepare_some(self) -> bool:
        """A bounded share of the work for images; whether there was any. As ``step``."""
        if not self._preparing.is_tracking:
            return False
        with self.timer.part(IMAGE_PART):
            return self._preparing.advance()

    def step(self) -> None:
        """Plan, run and publish one step. For the loop, and for who runs an engine without it."""
        started = self._clock.now_s()
        with self.timer.part(DRAFT_PART):
            drafts = self.drafting.drafts(self._scheduler.decoding)
        with self.timer.part("schedule"):
            plan = self._scheduler.schedule(drafts)
            self.metrics.queue.planned(plan.entries, self._clock.now_s())
        self._recorder.planned(self.num_steps, plan)
        deltas: list[TokenDelta] = []  # what is in here is published whatever happens
        logits = None
        began = self._clock.now_s()
        try:
            with self.timer.part("model"):
                logits = self._runner.run_plan(self.num_steps, plan)
            with self.timer.part("sample"):
                verified = self._stepper.finish_step(plan, logits, deltas)
            with self.timer.part(DRAFT_PART):
                self.drafting.ran(plan, verified, self._clock.now_s() - began)
        except EpochRetiredError as error:
            self._drop_step(error)
        except GalerneError as error:
            step, whose = self.num_steps, plan.request_ids
            logger.warning("engine_step_failed step=%d requests=%s reason=%s", step, whose, error)
            self._fail_step(plan, str(error), deltas, has_logits=logits is not None)
        except Exception:  # border of the loop: it must survive what a step brings
            step, whose = self.num_steps, plan.request_ids
            logger.exception("engine_step_failed step=%d requests=%s", step, whose)
            self._fail_step(plan, "internal error", deltas, has_logits=logits is not None)
        else:
            self.num_steps += 1
            self._retired_since_s = None
            self._recorder.sampled(deltas)
        with self.timer.part("emit"):
            self._on_deltas(deltas)
            self._count(plan, deltas, started)

    def take_commands(self, wait_s: float = 0.0) -> None:
        """Run queued commands; first wait for one. As ``step``."""
        try:
            if wait_s:
                self._commands.get(timeout=wait_s)()
            while True:
                self._commands.get_nowait()()
        except queue.Empty:
            return

    def _drop_step(self, error: EpochRetiredError) -> None:
        """Nothing of a step is kept: it is planned anew, in the topology that comes.

        Raises:
            EpochRetiredError: None has come in time: this engine has to end.
        """
        self.metrics.dropped_steps.inc()
        self._recorder.failed(str(error), (), has_logits=False)
        now = self._clock.now_s()
        if self._retired_since_s is None:
            logger.warning("engine_step_dropped step=%d reason=%s", self.num_steps, error)
            self._retired_since_s = now
        if now > self._retired_since_s + RETIRED_PATIENCE_S:
            raise error

    def _fail_step(
        self, plan: StepPlan, error: str, deltas: list[TokenDelta], *, has_logits: bool
    ) -> None:
        self.metrics.failed_steps.inc()
        sequences = [e.sequence for e in plan.entries if not e.sequence.is_finished]
        deltas += [self._stepper.fail(sequence, error) for sequence in sequences]
        self._recorder.failed(error, deltas, has_logits=has_logits)

    def _add(
        self, request: GenerationRequest, guides: Sequence[Guide], arrived_s: float
    ) -> Future[None] | None:
        """Let a request join, or begin to prepare it: then the future tells how that ends."""
        self._stepper.expect(request, guides)
        try:
            if self._is_closed:
                raise NotServingError("the engine has stopped")
            self._scheduler.check(request)
        except GalerneError:
            self._refuse(request)
            raise
        return self._preparing.add(request, arrived_s)

    def _join(self, request: GenerationRequest, arrived_s: float) -> list[Choice]:
        """A request is ready for the scheduler; its choices."""
        try:
            self._runner.check(request)
            sequences = self._scheduler.add(request)
        except Exception:
            self._refuse(request)
            raise
        self._leave_door(request)
        self._stepper.guide(request, sequences)
        self._loads.queued(sequences, arrived_s)
        self.metrics.queue.queued(sequences, arrived_s)
        self._recorder.added(request)
        return sequences

    def _refuse(self, request: GenerationRequest) -> None:
        """A request ends without having come to the scheduler."""
        self._leave_door(request)
        self._stepper.guide(request, ())
        if not self._is_closed:  # else it goes on at another gateway
            self._loads.refused(request)

    def _leave_door(self, request: GenerationRequest) -> None:
        with self._lock:
            self._num_submitted -= len(request.open_choices)

    def _abort(self, request_id: str, choice: int | None = None) -> bool:
        deltas = self._preparing.abort(request_id, choice)
        if deltas:
            self.metrics.finished.labels(FinishReason.ABORT.value).inc(len(deltas))
            self._on_deltas(deltas)
            return True
        ended = self._scheduler.abort(request_id, choice)
        self.metrics.queue.ended(ended)
        if ended:
            self._recorder.aborted(request_id, choice, [sequence.choice for sequence in ended])
        if not self._is_closed:  # else they go on at another gateway
            self._loads.aborted(ended)
        self.metrics.finished.labels(FinishReason.ABORT.value).inc(len(ended))
        self._on_deltas([self._stepper.last_delta(sequence) for sequence in ended])
        return bool(ended)

    def _preempt(self, request_id: str) -> int:
        choices = [sequence.choice for sequence in self._scheduler.preempt(request_id)]
        if choices:
            self._recorder.preempted(request_id, choices)
        return len(choices)

    def _reconfigure(self, epoch: Epoch, config: SchedulerConfig) -> None:
        self._retired_since_s = None
        self._scheduler.reconfigure(config)
        self.drafting.renew()
        self._recorder.epoch_committed(epoch, config)

    def _count(self, plan: StepPlan, deltas: Sequence[TokenDelta], started_s: float) -> None:
        metrics, now = self.metrics, self._clock.now_s()
        if deltas:  # a step that was dropped, or is of prompts alone, gives nothing out
            self._loads.stepped(plan.entries, now)
        metrics.count_step(plan, deltas, now - started_s)

    def metrics_text(self) -> bytes:
        """Prometheus text, the model's counters brought up to date."""
        self.metrics.part_seconds.update(self.timer.snapshot())
        self._runner.report(self.metrics)
        self.drafting.report(self.metrics)
        return self.metrics.text()
