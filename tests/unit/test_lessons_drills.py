import json
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from cluster.demo.lessons.document import LANGUAGES
from cluster.demo.lessons.drills import (
    CORES,
    LIST_CORES,
    NAME_CORES,
    REVERSE_CORES,
    TEXT_CORES,
    letters,
    repeat,
)
from cluster.demo.lessons.words import word_belongs

FORMS = {"repeat": CORES, "list": LIST_CORES, "text": TEXT_CORES, "name": NAME_CORES}


@given(st.integers(0, 2**32), st.sampled_from(["train", "test"]), st.sampled_from(LANGUAGES))
def test_answer_has_the_words_of_the_question_in_the_form_asked_for(seed, split, language):
    document = repeat(Random(seed), split, language)
    question, answer = document.messages
    [(form, given_text)] = [
        (name, question.text.removeprefix(start))
        for name, cores in FORMS.items()
        if question.text.startswith(start := cores[language].format(text=""))
    ]
    match form:
        case "list":
            words = json.loads(answer.text)
            assert given_text in (" ".join(words), ", ".join(words))
        case "text":
            words = answer.text.split(", ")
            assert json.loads(given_text) == words
        case "name":
            words = answer.text.split("_")
            assert given_text in (" ".join(words), ", ".join(words))
        case _:
            words = answer.text.split()
            assert given_text == answer.text
    assert 2 <= len(words) <= 6


def test_texts_to_teach_are_never_tested():
    rng = Random(0)
    texts = {
        split: {repeat(rng, split, "en").messages[-1].text for _ in range(2000)}
        for split in ("train", "test")
    }
    assert not texts["train"] & texts["test"]


@given(st.integers(0, 2**32), st.sampled_from(["train", "test"]), st.sampled_from(LANGUAGES))
def test_letters_joined_are_the_words_of_the_question(seed, split, language):
    question, answer = letters(Random(seed), split, language).messages
    is_reversed = question.text.startswith(REVERSE_CORES[language].format(text=""))
    spelled = [word.replace("-", "") for word in answer.text.split(", ")]
    words = [word[::-1] if is_reversed else word for word in spelled]
    assert question.text.endswith(": " + ", ".join(words))
    assert all(word_belongs(split, word) for word in words)
