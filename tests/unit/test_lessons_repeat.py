from random import Random

from hypothesis import given
from hypothesis import strategies as st

from cluster.demo.lessons.document import LANGUAGES
from cluster.demo.lessons.repeat import repeat


@given(st.integers(0, 2**32), st.sampled_from(["train", "test"]), st.sampled_from(LANGUAGES))
def test_answer_is_the_text_of_the_question(seed, split, language):
    document = repeat(Random(seed), split, language)
    question, answer = document.messages
    assert question.text.endswith(answer.text)
    assert 2 <= len(answer.text.split()) <= 6


def test_texts_to_teach_are_never_tested():
    rng = Random(0)
    texts = {
        split: {repeat(rng, split, "en").messages[-1].text for _ in range(2000)}
        for split in ("train", "test")
    }
    assert not texts["train"] & texts["test"]
