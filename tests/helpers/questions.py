"""Reads a lesson's question back into the phrasing and the fields that it was made of."""

import re

from cluster.demo.lessons.phrasing import CLOSERS, OPENERS


def read_question(document, cores, fields):
    """The first question's (opener, core, closer) and the match of its fields.

    ``cores`` are the sentences of the document's language; ``fields`` maps ``{name}`` to the
    pattern of what may stand there.
    """
    question, language = document.messages[0].text, document.language
    for opener in OPENERS[language]:
        for closer in CLOSERS[language]:
            if not (question.startswith(opener) and question.endswith(closer)):
                continue
            asked = question.removeprefix(opener).removesuffix(closer)
            for core in cores:
                if match := re.fullmatch(_pattern(core, fields), asked):
                    return (opener, core, closer), match
    raise AssertionError(question)


def _pattern(core, fields):
    pattern = re.escape(core)
    for field, group in fields.items():
        pattern = pattern.replace(re.escape(field), group)
    return pattern
