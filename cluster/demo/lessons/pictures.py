"""Questions about a picture of coloured shapes.

For training one picture carries several questions of all kinds, each with its answer; the last one
names the document's task. A test asks one question about a picture that training never shows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from random import Random
from typing import NamedTuple

from cluster.demo.lessons.document import (
    Document,
    Effort,
    Language,
    Lesson,
    Message,
    Split,
)
from cluster.demo.lessons.phrasing import phrase
from cluster.demo.lessons.pictures_text import CORES, TASKS, Task
from cluster.demo.lessons.pictures_words import WORDS, Words
from cluster.demo.lessons.scene import (
    CELLS,
    COLOURS,
    MAX_ITEMS,
    SHAPES,
    SIDES,
    SIZES,
    Colour,
    Item,
    Scene,
    Shape,
)
from cluster.demo.lessons.split import draw

HELD_OUT_EVERY = 10
NUM_QUESTIONS = (3, 4, 5)
NUM_THOUGHT_OUT = (1, 2)  # questions where each answer is preceded by a description
HIGH_EFFORT_SHARE = 1 / 3
EMPTY_SHARE = 1 / 5  # of the questions "which", those about an empty cell
ZERO_SHARE = 1 / 6  # of the questions "how many", those whose answer is none
# A picture uses this many colours and kinds at most, so that some counts are above one.
COLOURS_PER_SCENE = (2, 4, len(COLOURS))
SHAPES_PER_SCENE = (2, 3, len(SHAPES))


class Wanted(NamedTuple):
    """Which shapes a question counts; ``None`` takes any."""

    shape: Shape | None
    colour: Colour | None

    def cells(self, scene: Scene) -> list[int]:
        """Where they are, in reading order."""
        return [
            item.cell
            for item in scene.objects
            if self.shape in (None, item.shape) and self.colour in (None, item.colour)
        ]


class Question(NamedTuple):
    """What is asked, apart from the wording: the fields of the core say it all."""

    task: Task
    fields: Mapping[str, str]
    answer: str


def random_scene(rng: Random, split: Split) -> Scene:
    """A picture of ``split``: 1 to 6 shapes, any side. The objects alone decide the split."""
    objects = draw(rng, split, _random_objects, every=HELD_OUT_EVERY)
    return Scene(rng.choice(SIDES), objects)


def picture_lesson(
    task: Task, rng: Random, split: Split, language: Language, *, effort: Effort | None = None
) -> Document:
    """A conversation about one picture whose last question is of the kind ``task``.

    Args:
        task: One of ``TASKS``.
        rng: Where all choices come from.
        split: Several questions for training, one for the test.
        language: Of all questions and answers.
        effort: High adds the whole description as thinking. By default a third of the training
            documents has it, and no test.
    """
    scene = random_scene(rng, split)
    while task not in possible_tasks(scene):
        scene = random_scene(rng, split)
    if effort is None:
        lucky = split == "train" and rng.random() < HIGH_EFFORT_SHARE
        effort = "high" if lucky else "none"
    words = WORDS[language]
    thinking = _description(scene, words) if effort == "high" else ""
    numbers = NUM_THOUGHT_OUT if effort == "high" else NUM_QUESTIONS
    number = 1 if split == "test" else rng.choice(numbers)
    messages: list[Message] = []
    for question in _questions(task, rng, number, scene, words):
        text = phrase(rng, split, language, CORES[question.task], **question.fields)
        messages += (
            Message("user", text, picture=None if messages else scene),
            Message("assistant", question.answer, thinking=thinking),
        )
    return Document(task, language, effort, tuple(messages))


LESSONS: Mapping[str, Lesson] = {task: partial(picture_lesson, task) for task in TASKS}


def possible_tasks(scene: Scene) -> tuple[Task, ...]:
    """The questions that make sense: size and place need a shape that has no double."""
    if unique_items(scene):
        return TASKS
    return tuple(task for task in TASKS if task not in ("picture-size", "picture-where"))


def unique_items(scene: Scene) -> tuple[Item, ...]:
    """The objects that "the <colour> <shape>" names without doubt."""
    return tuple(
        item for item in scene.objects if len(Wanted(item.shape, item.colour).cells(scene)) == 1
    )


def _random_objects(rng: Random) -> tuple[Item, ...]:
    cells = sorted(rng.sample(CELLS, rng.randint(1, MAX_ITEMS)))
    colours = rng.sample(COLOURS, rng.choice(COLOURS_PER_SCENE))
    shapes = rng.sample(SHAPES, rng.choice(SHAPES_PER_SCENE))
    return tuple(
        Item(cell, rng.choice(shapes), rng.choice(colours), rng.choice(SIZES)) for cell in cells
    )


def _questions(task: Task, rng: Random, number: int, scene: Scene, words: Words) -> list[Question]:
    """The questions of a document, no two alike; the last is of the kind ``task``."""
    asked = [_ask(task, rng, scene, words)]
    tasks = possible_tasks(scene)
    while len(asked) < number:
        question = _ask(rng.choice(tasks), rng, scene, words)
        if question not in asked:
            asked.append(question)
    return asked[::-1]


def _ask(task: Task, rng: Random, scene: Scene, words: Words) -> Question:
    match task:
        case "picture-count":
            return _ask_count(rng, scene, words)
        case "picture-which":
            return _ask_which(rng, scene, words)
        case "picture-all":
            return Question(task, {}, _description(scene, words))
        case _:
            item = rng.choice(unique_items(scene))
            the = words.the_thing(item.shape, item.colour)
            size_asked = task == "picture-size"
            answer = words.size(item.size) if size_asked else words.position(item.cell)
            return Question(task, {"the": the}, answer)


def _description(scene: Scene, words: Words) -> str:
    return words.semicolon.join(
        words.position(item.cell) + words.colon + words.whole_thing(item) for item in scene.objects
    )


def _ask_which(rng: Random, scene: Scene, words: Words) -> Question:
    taken = [item.cell for item in scene.objects]
    empty = [cell for cell in CELLS if cell not in taken]
    cell = rng.choice(empty if rng.random() < EMPTY_SHARE else taken)
    item = scene.at(cell)
    answer = words.nothing if item is None else words.thing(item.shape, item.colour)
    return Question("picture-which", {"at": words.place(cell)}, answer)


def _ask_count(rng: Random, scene: Scene, words: Words) -> Question:
    choose = _absent if rng.random() < ZERO_SHARE else _present
    wanted = choose(rng, scene)
    cells = wanted.cells(scene)
    positions = words.list_of_positions(cells)
    answer = f"{positions}{words.colon}{len(cells)}" if cells else "0"
    fields = {
        "things": words.things(*wanted),
        "the_things": words.the_things(*wanted),
        "many": words.many(wanted.shape),
    }
    return Question("picture-count", fields, answer)


def _present(rng: Random, scene: Scene) -> Wanted:
    """All, a colour, a kind or both, equally often; then each count that occurs equally often."""
    by_colour, by_shape = rng.choice(((False, False), (False, True), (True, False), (True, True)))
    candidates = {
        Wanted(item.shape if by_shape else None, item.colour if by_colour else None)
        for item in scene.objects
    }
    by_count: dict[int, list[Wanted]] = {}
    for wanted in sorted(candidates, key=str):  # a set has no order to rely on
        by_count.setdefault(len(wanted.cells(scene)), []).append(wanted)
    return rng.choice(by_count[rng.choice(sorted(by_count))])


def _absent(rng: Random, scene: Scene) -> Wanted:
    """A colour, a kind or a pair that is not there; the pair's halves may well be."""
    choices: Sequence[Sequence[Wanted]] = (
        [Wanted(None, colour) for colour in COLOURS],
        [Wanted(shape, None) for shape in SHAPES],
        [Wanted(shape, colour) for shape in SHAPES for colour in COLOURS],
        [Wanted(i.shape, j.colour) for i in scene.objects for j in scene.objects],
    )
    absent = [[wanted for wanted in kind if not wanted.cells(scene)] for kind in choices]
    return rng.choice(rng.choice([kind for kind in absent if kind]))
