"""The sampler as one would explain it: everything sorted, noise for every token, no short cuts."""

from __future__ import annotations

import numpy as np

from router.engine.fixed_math import fixed_exp, fixed_log, fixed_sum
from router.engine.penalties import PenaltyState
from router.engine.philox import gumbel_noise
from router.engine.request import SamplingParams, TokenLogprob, TokenLogprobs
from router.engine.sampling import Sampled

MASK = 2**32 - 1


def reference_philox(counter: tuple[int, ...], key: tuple[int, ...]) -> tuple[int, ...]:
    """Philox4x32-10 on Python integers, one block."""
    c, (k0, k1) = counter, key
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = (p1 >> 32 ^ c[1] ^ k0, p1 & MASK, p0 >> 32 ^ c[3] ^ k1, p0 & MASK)
        k0, k1 = k0 + 0x9E3779B9 & MASK, k1 + 0xBB67AE85 & MASK
    return c


def reference_adjust(
    logits: np.ndarray,
    params: SamplingParams,
    *,
    prompt: list[int],
    output: list[int],
    num_generated: int,
    eos_token_id: int,
    allowed: list[int] | None = None,
) -> np.ndarray:
    """A mask, penalties, bias and minimum length from the token lists, token by token."""
    f32 = np.float32
    out = logits.copy()
    ends = {eos_token_id, *params.stop_token_ids} if num_generated < params.min_tokens else set()
    if allowed is not None:
        ends |= {eos_token_id} if params.ignore_eos else set()
        ends = ends if set(allowed) - ends else set()
    for token in range(out.size):
        if token in prompt or token in output:
            r = f32(params.repetition_penalty)
            out[token] = out[token] / r if out[token] > 0 else out[token] * r
        out[token] -= f32(params.frequency_penalty) * f32(output.count(token))
        out[token] -= f32(params.presence_penalty) * f32(token in output)
        out[token] += f32(params.logit_bias.get(token, 0.0))
        if token in ends or (allowed is not None and token not in allowed):
            out[token] = -np.inf
    return out


def reference_kept(scores: np.ndarray, params: SamplingParams) -> list[int]:
    """Kept ids by full sorts over all tokens, in order."""
    order = np.lexsort((np.arange(scores.size), -scores))
    if params.top_k:
        order = order[: params.top_k]
    if params.top_p < 1:
        weights = np.zeros_like(scores)
        weights[order] = fixed_exp(scores[order])
        target = np.float32(params.top_p) * fixed_sum(weights)
        length, reached = 0, np.float32(0)
        while length < order.size and (length == 0 or reached < target):
            reached += weights[order[length]]
            length += 1
        order = order[:length]
    if params.min_p > 0:
        floor = np.float32(fixed_log(np.array([params.min_p]))[0])
        order = order[scores[order] >= floor]
    return [int(i) for i in order]


def reference_logprobs(logits: np.ndarray, token: int, top: int) -> TokenLogprobs:
    """Log softmax by definition, every token sorted."""
    with np.errstate(over="ignore"):
        shifted = logits - logits.max()
    values = shifted - np.float32(fixed_log(np.array([float(fixed_sum(fixed_exp(shifted)))]))[0])
    order = np.lexsort((np.arange(values.size), -values))[:top]
    return TokenLogprobs(
        TokenLogprob(token, float(values[token])),
        tuple(TokenLogprob(int(i), float(values[i])) for i in order),
    )


def reference_sample_row(
    logits: np.ndarray,
    params: SamplingParams,
    *,
    choice: int,
    position: int,
    num_generated: int,
    prompt: list[int],
    output: list[int],
    eos_token_id: int,
    allowed: list[int] | None = None,
) -> Sampled:
    """As ``sample_row``, with the tokens so far in place of a penalty state."""
    adjusted = reference_adjust(
        logits,
        params,
        prompt=prompt,
        output=output,
        num_generated=num_generated,
        eos_token_id=eos_token_id,
        allowed=allowed,
    )
    if np.float32(params.temperature) == 0:
        token = min(np.flatnonzero(adjusted == adjusted.max()))
    else:
        with np.errstate(over="ignore"):
            scores = (adjusted - adjusted.max()) / np.float32(params.temperature)
        keys = np.full_like(scores, -np.inf)
        kept = reference_kept(scores, params)
        noise = gumbel_noise(params.seed, choice, position, range(scores.size))
        keys[kept] = scores[kept] + noise[kept]
        token = min(np.flatnonzero(keys == keys.max()))
    token = int(token)
    wanted = params.logprobs
    found = None if wanted is None else reference_logprobs(logits, token, wanted)
    return Sampled(token, found)


def make_penalties(vocab_size: int, prompt: list[int], output: list[int]) -> PenaltyState:
    """State after a prompt and some output."""
    state = PenaltyState(vocab_size)
    state.observe_prompt(prompt)
    for token in output:
        state.observe(token)
    return state
