import json
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from cluster.demo.lessons.document import LANGUAGES
from cluster.demo.lessons.drills import LIST_CORES, REVERSE_CORES, letters, repeat
from cluster.demo.lessons.words import word_belongs


@given(st.integers(0, 2**32), st.sampled_from(["train", "test"]), st.sampled_from(LANGUAGES))
def test_answer_is_the_text_of_the_question_or_a_list_of_its_words(seed, split, language):
    document = repeat(Random(seed), split, language)
    question, answer = document.messages
    if question.text.startswith(LIST_CORES[language].format(text="")):
        words = json.loads(answer.text)
        assert any(question.text.endswith(joint.join(words)) for joint in (" ", ", "))
    else:
        words = answer.text.split()
        assert question.text.endswith(answer.text)
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
