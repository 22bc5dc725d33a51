"""Arithmetic lessons: add, subtract, compare and sum numbers of 0 to 999.

With effort none the answer comes at once; with effort high the thinking holds the written steps,
one column a line. A seed gives the same problem whatever effort is forced, so the two efforts can
be compared problem by problem.

Held out: one unordered pair of operands in ten, the same pairs for adding, subtracting, comparing
and for every addition on the way of a longer sum.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from random import Random
from typing import Final

from cluster.demo.lessons import arithmetic_text
from cluster.demo.lessons.document import (
    Document,
    Effort,
    Language,
    Lesson,
    Split,
    single_turn,
    wants_thinking,
)
from cluster.demo.lessons.phrasing import Cores, phrase
from cluster.demo.lessons.split import MAX_DRAWS, belongs

MAX_OPERAND: Final = 999
NUM_DIGITS: Final = 3
HELD_OUT_EVERY: Final = 10
MAX_SUM_DRAWS: Final = 100_000  # a held-out sum of four is one in a thousand
HIGH_SHARE: Final = 2 / 3  # of the documents have written steps


def pair_belongs(split: Split, a: int, b: int) -> bool:
    """Whether ``split`` may use these two operands, in either order."""
    return belongs(split, min(a, b), max(a, b), every=HELD_OUT_EVERY)


def numbers_belong(split: Split, numbers: Sequence[int]) -> bool:
    """Whether ``split`` may sum these numbers: all pairs added on the way must be its own."""
    return all(
        pair_belongs(split, total, number)
        for total, number in zip(accumulate(numbers), numbers[1:], strict=False)
    )


def add_steps(a: int, b: int) -> str:
    """Columns from the lowest digit up, ``+1`` where a carry comes in; the last line is the sum."""
    width = max(len(str(a)), len(str(b)))
    lines = [f"{a}+{b}"]
    carry = 0
    for x, y in _columns(a, b, width):
        total = x + y + carry
        lines.append(f"{x}+{y}{'+1' * carry}={total}")
        carry = total // 10
    return "\n".join([*lines, str(a + b)])


def subtract_steps(a: int, b: int) -> str:
    """Columns from the lowest digit up; the last line is the difference.

    A column is top minus bottom, ``-1`` where the column before borrowed, ``+10`` where this one
    borrows, equals digit: ``2-8+10=4``, ``1-7-1+10=3``, ``9-4-1=4``. What decides on the next sign
    is thus always written before it. If ``a < b`` the first line turns the difference around
    (``478-912=-(912-478)``) and the columns are those of ``b - a``.
    """
    top, bottom = max(a, b), min(a, b)
    lines = [f"{a}-{b}" if a >= b else f"{a}-{b}=-({b}-{a})"]
    borrow = 0
    for x, y in _columns(top, bottom, len(str(top))):
        borrows = int(x < y + borrow)
        lines.append(f"{x}-{y}{'-1' * borrow}{'+10' * borrows}={x - y - borrow + 10 * borrows}")
        borrow = borrows
    return "\n".join([*lines, str(a - b)])


def compare_steps(a: int, b: int) -> str:
    """Digits from the highest down until they differ; the last line is the larger number."""
    lines = [f"{a} {b}"]
    for x, y in reversed(_columns(a, b, NUM_DIGITS)):
        lines.append(f"{x}{'=' if x == y else '<' if x < y else '>'}{y}")
        if x != y:
            break
    return "\n".join([*lines, str(max(a, b))])


def sum_steps(numbers: Sequence[int]) -> str:
    """Additions chained from the left, each written as by ``add_steps``."""
    totals = accumulate(numbers)
    return "\n".join(
        add_steps(total, number) for total, number in zip(totals, numbers[1:], strict=False)
    )


def add(rng: Random, split: Split, language: Language, *, effort: Effort | None = None) -> Document:
    """The sum of two numbers. ``effort`` None: as often high as ``HIGH_SHARE`` says."""
    a, b = _draw_pair(rng, split)
    cores = arithmetic_text.ADD
    return _ask("add", rng, split, language, effort, cores, {"a": a, "b": b}, add_steps(a, b))


def subtract(
    rng: Random, split: Split, language: Language, *, effort: Effort | None = None
) -> Document:
    """The difference of two numbers, which may be negative."""
    a, b = _draw_pair(rng, split)
    cores = arithmetic_text.SUBTRACT
    steps = subtract_steps(a, b)
    return _ask("subtract", rng, split, language, effort, cores, {"a": a, "b": b}, steps)


def compare(
    rng: Random, split: Split, language: Language, *, effort: Effort | None = None
) -> Document:
    """The larger of two numbers, which differ."""
    a, b = _draw_pair(rng, split, distinct=True)
    cores = arithmetic_text.COMPARE
    steps = compare_steps(a, b)
    return _ask("compare", rng, split, language, effort, cores, {"a": a, "b": b}, steps)


def sum_several(
    rng: Random, split: Split, language: Language, *, effort: Effort | None = None
) -> Document:
    """The sum of three or four numbers."""
    numbers = _draw_numbers(rng, split)
    written = [str(number) for number in numbers]
    fields = {
        "numbers": ", ".join(written),
        "terms": " + ".join(written),
        "tight": "+".join(written),
    }
    steps = sum_steps(numbers)
    return _ask("sum", rng, split, language, effort, arithmetic_text.SUM, fields, steps)


LESSONS: Mapping[str, Lesson] = {
    "add": add,
    "subtract": subtract,
    "compare": compare,
    "sum": sum_several,
}


def _columns(a: int, b: int, width: int) -> list[tuple[int, int]]:
    """Digit pairs of two numbers, the lowest first, padded with 0 to ``width``."""
    pairs = zip(reversed(f"{a:0{width}}"), reversed(f"{b:0{width}}"), strict=True)
    return [(int(x), int(y)) for x, y in pairs]


def _draw_pair(rng: Random, split: Split, *, distinct: bool = False) -> tuple[int, int]:
    for _ in range(MAX_DRAWS):
        a, b = rng.randint(0, MAX_OPERAND), rng.randint(0, MAX_OPERAND)
        if pair_belongs(split, a, b) and not (distinct and a == b):
            return a, b
    raise RuntimeError(f"no operands of the {split} split in {MAX_DRAWS} draws")


def _draw_numbers(rng: Random, split: Split) -> tuple[int, ...]:
    count = rng.choice((3, 4))  # before the loop: a redraw must not favour the shorter sums
    for _ in range(MAX_SUM_DRAWS):
        numbers = tuple(rng.randint(0, MAX_OPERAND) for _ in range(count))
        if numbers_belong(split, numbers):
            return numbers
    raise RuntimeError(f"no numbers of the {split} split in {MAX_SUM_DRAWS} draws")


def _ask(
    task: str,
    rng: Random,
    split: Split,
    language: Language,
    effort: Effort | None,
    cores: Cores,
    fields: Mapping[str, object],
    steps: str,
) -> Document:
    """The problem in words; the answer is the last line of the steps."""
    question = phrase(rng, split, language, cores, **fields)
    thinking = steps if wants_thinking(rng, effort, HIGH_SHARE) else ""
    return single_turn(task, language, question, steps.rsplit("\n", 1)[-1], thinking=thinking)
