"""The answers are worked out a second time here, from the words of the English questions."""

from __future__ import annotations

import io
from collections import Counter
from itertools import combinations, product
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cluster.demo.lessons.document import LANGUAGES, Document, Language, Split
from cluster.demo.lessons.phrasing import CLOSERS, OPENERS, num_phrasings
from cluster.demo.lessons.pictures import (
    HELD_OUT_EVERY,
    LESSONS,
    picture_lesson,
    random_scene,
    unique_items,
)
from cluster.demo.lessons.pictures_text import CORES, TASKS, Task
from cluster.demo.lessons.pictures_words import WORDS
from cluster.demo.lessons.scene import (
    BACKGROUND,
    COLOURS,
    LINE,
    RGB,
    SHAPES,
    SIDES,
    SIZES,
    Item,
    Scene,
    cell_bounds,
    cell_of_pixel,
    png,
)
from cluster.demo.lessons.split import is_held_out

SEEDS = st.integers(0, 2**32 - 1)
SPLITS: tuple[Split, ...] = ("train", "test")
POSITIONS = (
    *("top left", "top centre", "top right", "left", "centre", "right"),
    *("bottom left", "bottom centre", "bottom right"),
)


def scene_of(document: Document) -> Scene:
    pictures = [message.picture for message in document.messages]
    assert isinstance(pictures[0], Scene)
    assert not any(pictures[1:])
    return pictures[0]


def bare(question: str) -> str:
    """An English question without its opener and closer."""
    opener = max((o for o in OPENERS["en"] if question.startswith(o)), key=len)
    closer = max((c for c in CLOSERS["en"] if question.endswith(c)), key=len)
    return question.removeprefix(opener).removesuffix(closer)


def english_answer(scene: Scene, question: str) -> str:
    text = bare(question)
    words = text.rstrip("?.").split()
    colours = [c for c in COLOURS if c in words]
    plurals = [s for s in SHAPES if s + ("es" if s == "cross" else "s") in words]
    shapes = [s for s in SHAPES if s in words]
    if {"picture", "everything", "every", "Which shapes"} & {*words, " ".join(words[:2])}:
        return "; ".join(
            f"{POSITIONS[i.cell]}: {i.size} {i.colour} {i.shape}" for i in scene.objects
        )
    if shapes:
        (item,) = (i for i in scene.objects if [i.shape] == shapes and [i.colour] == colours)
        about_size = {"large", "size"} & set(words)
        return item.size if about_size else POSITIONS[item.cell]
    if plurals or "shapes" in words:
        found = [
            POSITIONS[i.cell]
            for i in scene.objects
            if (not plurals or i.shape in plurals) and (not colours or i.colour in colours)
        ]
        return f"{', '.join(found)}: {len(found)}" if found else "0"
    asked = max((p for p in POSITIONS if f"the {p}" in text), key=len)
    items = [i for i in scene.objects if POSITIONS[i.cell] == asked]
    return f"{items[0].colour} {items[0].shape}" if items else "nothing"


@settings(max_examples=300, deadline=None)
@given(SEEDS, st.sampled_from(TASKS), st.sampled_from(SPLITS))
def test_every_english_answer_follows_from_the_picture(seed: int, task: Task, split: Split) -> None:
    document = LESSONS[task](Random(seed), split, "en")
    scene = scene_of(document)
    questions, answers = document.messages[::2], document.messages[1::2]
    for question, answer in zip(questions, answers, strict=True):
        assert answer.text == english_answer(scene, question.text)


def translated(answer: str, language: Language) -> str:
    """An English answer in another language, part by part."""
    words = WORDS[language]
    places = {name: words.position(cell) for cell, name in enumerate(POSITIONS)}
    alone = places | dict(zip(SIZES, words.sizes, strict=True)) | {"nothing": words.nothing}
    alone |= {f"{c} {s}": words.thing(s, c) for c, s in product(COLOURS, SHAPES)}
    whole = {
        f"{size} {colour} {shape}": words.whole_thing(Item(0, shape, colour, size))
        for size, colour, shape in product(SIZES, COLOURS, SHAPES)
    }
    parts = []
    for part in answer.split("; "):
        *listed, last = part.split(": ")
        text = ", ".join(places[place] for place in listed[0].split(", ")) if listed else ""
        parts.append(text + (words.colon if listed else "") + (alone | whole).get(last, last))
    return words.semicolon.join(parts)


@settings(max_examples=300, deadline=None)
@given(SEEDS, st.sampled_from(TASKS), st.sampled_from(LANGUAGES), st.sampled_from(SPLITS))
def test_every_language_gives_the_english_answers_in_its_own_words(
    seed: int, task: Task, language: Language, split: Split
) -> None:
    document = LESSONS[task](Random(seed), split, language)
    english = LESSONS[task](Random(seed), split, "en")
    assert scene_of(document) == scene_of(english)
    answers = [message.text for message in document.messages[1::2]]
    assert answers == [translated(m.text, language) for m in english.messages[1::2]]


def test_words_bend_as_they_should() -> None:
    cross = Item(0, "cross", "green", "small")
    circle = Item(0, "circle", "black", "medium")
    assert WORDS["en"].whole_thing(cross) == "small green cross"
    assert WORDS["fr"].whole_thing(cross) == "petite croix verte"
    assert WORDS["fr"].whole_thing(circle) == "cercle noir moyen"
    assert WORDS["de"].whole_thing(circle) == "Kreis in Schwarz, mittel"
    assert WORDS["de"].the_thing("diamond", "red") == "die Raute in Rot"
    assert WORDS["nl"].the_thing("square", "red") == "het vierkant in rood"
    assert WORDS["es"].whole_thing(cross) == "cruz verde pequeña"
    assert WORDS["es"].the_things("cross", "red") == "las cruces rojas"
    assert WORDS["es"].many("circle") == "Cuántos"
    assert WORDS["es"].many(None) == "Cuántas"
    assert WORDS["it"].the_things("circle", "red") == "i cerchi rossi"
    assert WORDS["it"].the_things(None, "yellow") == "le figure gialle"


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_two_things_share_a_name(language: Language) -> None:
    words = WORDS[language]
    things = {words.thing(s, c) for s, c in product(SHAPES, COLOURS)}
    whole = {words.whole_thing(Item(0, *x)) for x in product(SHAPES, COLOURS, SIZES)}
    assert (len(things), len(whole)) == (40, 120)
    assert len({words.position(cell) for cell in range(9)}) == 9
    assert len({words.place(cell) for cell in range(9)}) == 9
    assert len({words.size(size) for size in SIZES}) == 3


@settings(max_examples=100, deadline=None)
@given(SEEDS, st.sampled_from(TASKS), st.sampled_from(LANGUAGES))
def test_the_shape_of_a_conversation(seed: int, task: Task, language: Language) -> None:
    train = LESSONS[task](Random(seed), "train", language)
    test = LESSONS[task](Random(seed), "test", language)
    assert train == LESSONS[task](Random(seed), "train", language)
    assert len(train.messages) in ((2, 4) if train.effort == "high" else (6, 8, 10))
    assert (len(test.messages), test.effort) == (2, "none")
    assert [m.role for m in train.messages] == ["user", "assistant"] * (len(train.messages) // 2)
    assert all(bool(m.thinking) == (train.effort == "high") for m in train.messages[1::2])
    forced = picture_lesson(task, Random(seed), "test", language, effort="high")
    words = WORDS[language]
    described = [
        f"{words.position(item.cell)}{words.colon}{words.whole_thing(item)}"
        for item in scene_of(forced).objects
    ]
    assert forced.messages[-1].thinking == words.semicolon.join(described)


def test_questions_are_balanced() -> None:
    rng = Random(7)
    efforts: Counter[str] = Counter()
    answers: dict[str, Counter[str]] = {task: Counter() for task in TASKS}
    for _ in range(1500):
        for task in TASKS:
            document = LESSONS[task](rng, "train", "en")
            efforts[document.effort] += 1
            answers[task][document.messages[-1].text.split(": ")[-1]] += 1
    assert abs(efforts["high"] / efforts.total() - 1 / 3) < 0.02
    assert abs(answers["picture-which"]["nothing"] / 1500 - 1 / 5) < 0.04
    counts = answers["picture-count"]
    assert abs(counts["0"] / 1500 - 1 / 6) < 0.04
    assert set(counts) == set("0123456")
    assert min(counts.values()) > 30
    assert len(answers["picture-which"]) == 1 + len(SHAPES) * len(COLOURS)
    assert min(answers["picture-size"].values()) > 400
    assert min(answers["picture-where"].values()) > 100


def test_the_splits_share_no_picture() -> None:
    rng = Random(3)
    objects = {s: {random_scene(rng, s).objects for _ in range(3000)} for s in SPLITS}
    assert not objects["train"] & objects["test"]
    assert all(is_held_out(o, every=HELD_OUT_EVERY) for o in objects["test"])
    scenes = [random_scene(rng, "train") for _ in range(1000)]
    assert {len(scene.objects) for scene in scenes} == set(range(1, 7))
    assert {scene.side for scene in scenes} == set(SIDES) == {56, 84, 112, 140, 168, 196, 224}
    assert any(len(unique_items(scene)) < len(scene.objects) for scene in scenes)


def test_the_splits_share_no_phrasing() -> None:
    rng = Random(5)
    for language in LANGUAGES:
        asked: dict[Split, set[str]] = {"train": set(), "test": set()}
        for split, _ in product(SPLITS, range(400)):
            document = LESSONS["picture-all"](rng, split, language)  # its cores have no fields
            asked[split].add(document.messages[-2].text)
        assert not asked["train"] & asked["test"]
        for task in TASKS:
            cores = CORES[task][language]
            assert len(set(cores)) == len(cores) >= 6
            assert num_phrasings(language, len(cores)) >= 40


def test_cells_cover_exactly_the_documented_pixels() -> None:
    for side in SIDES:
        bounds = cell_bounds(side)
        assert bounds == (0, round(side / 3), round(2 * side / 3), side)
        rows = [cell_of_pixel(side, pixel) for pixel in range(side)]
        assert rows == [i for i in range(3) for _ in range(bounds[i], bounds[i + 1])]
        for outside in (-1, side):
            with pytest.raises(ValueError, match="outside"):
                cell_of_pixel(side, outside)


@settings(max_examples=100, deadline=None)
@given(SEEDS)
def test_a_shape_has_its_colour_and_stays_in_its_cell(seed: int) -> None:
    scene = random_scene(Random(seed), "train")
    pixels = scene.pixels()
    assert pixels.shape == (scene.side, scene.side, 3)
    assert pixels.dtype == np.uint8
    bounds = cell_bounds(scene.side)
    for cell in range(9):
        row, column = divmod(cell, 3)
        part = pixels[bounds[row] : bounds[row + 1], bounds[column] : bounds[column + 1]]
        item = scene.at(cell)
        centre = tuple(part[part.shape[0] // 2, part.shape[1] // 2].tolist())
        assert centre == (RGB[item.colour] if item else BACKGROUND)
        if not item:
            assert {tuple(p) for p in part.reshape(-1, 3).tolist()} <= {BACKGROUND, LINE}
    with Image.open(io.BytesIO(png(scene))) as image:
        assert np.array_equal(np.asarray(image), pixels)


def test_shapes_and_sizes_differ_clearly_at_every_side() -> None:
    kinds = list(product(SHAPES, SIZES))
    for side, cell in product(SIDES, (0, 4)):
        row = slice(*cell_bounds(side)[cell // 3 :][:2])
        ink = {
            (shape, size): 1 - Scene(side, (Item(cell, shape, "black", size),)).pixels() / 255
            for shape, size in kinds
        }
        for one, other in combinations(kinds, 2):
            difference = np.abs(ink[one] - ink[other])[..., 0].sum()
            smaller = min(ink[one][row, row, 0].sum(), ink[other][row, row, 0].sum())
            assert difference > max(10, smaller / 6), (side, cell, one, other)


def test_colours_are_far_apart() -> None:
    for one, other in combinations([*RGB.values(), BACKGROUND], 2):
        assert np.linalg.norm(np.subtract(one, other)) > 100


@pytest.mark.parametrize(
    ("side", "cells"), [(57, (0,)), (28, (0,)), (56, ()), (56, (1, 1)), (56, (2, 1)), (56, (9,))]
)
def test_a_scene_that_cannot_be_drawn_is_refused(side: int, cells: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"side|objects|rise"):
        Scene(side, tuple(Item(cell, "circle", "red", "small") for cell in cells))
