"""What guesses in tests: one that knows the answers, and one switched on and off by the step."""

from random import Random

import torch

from galerne.clock import MonotonicClock
from router.engine.speculation.ngram import NgramSource
from router.engine.speculation.policy import SpeculationConfig
from router.engine.speculation.speculation import Speculation
from router.model.eagle import EagleHead
from router.model.eagle_source import EagleSource


class KnowingSource:
    """Guesses from known answers, by request id and choice; a share of the guesses is wrong."""

    name = "knowing"
    follows = False

    def __init__(self, answers, *, wrong, seed=0):
        self._answers, self._wrong, self._rng = answers, wrong, Random(seed)

    def reach(self, sequence, most):
        return len(self._ahead(sequence, most))

    def draft(self, sequences, most):
        return {s: self._spoiled(self._ahead(s, most)) for s in sequences}

    def follow(self, plan):
        pass

    def pass_over(self, plan):
        pass

    def forget_ended(self):
        pass

    def _ahead(self, sequence, most):
        tokens = self._answers[sequence.request_id, sequence.choice]
        return tuple(tokens[sequence.num_generated :][:most])

    def _spoiled(self, tokens):
        return tuple(t ^ 1 if self._rng.random() < self._wrong else t for t in tokens)


class Toggled:
    """Drafting that is switched on and off by chance, step by step, as an operator might."""

    def __init__(self, inner, seed):
        self._inner, self._rng = inner, Random(seed)

    def drafts(self, decoding):
        self._inner.is_on = self._rng.random() < 0.6
        return self._inner.drafts(decoding)

    def __getattr__(self, name):
        return getattr(self._inner, name)


def always(num_draft_tokens=4):
    return SpeculationConfig(num_draft_tokens=num_draft_tokens, is_auto=False)


def ngram(config):
    """Drafting by n-grams, for ``helpers.gateways.engine``."""
    return lambda model: Speculation(NgramSource(), config, MonotonicClock())


def knowing(answers, config, *, wrong, seed=0):
    """Drafting by who knows the answers."""
    source = KnowingSource(answers, wrong=wrong, seed=seed)
    return lambda model: Speculation(source, config, MonotonicClock())


def eagle(head, config, threads=1, dtype=torch.bfloat16, device="cpu"):
    """Drafting by the head of an opened checkpoint."""

    def make(model):
        cache = model.cache
        sizes = cache.num_blocks, cache.block_size
        made = EagleHead(head, model.decoder, *sizes, dtype, threads, device)
        source = EagleSource(model, made, model.decoder.config.eos_token_id)
        return Speculation(source, config, MonotonicClock())

    return make
