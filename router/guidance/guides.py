"""Guides for requests with rules, made at their gateway before the engine hears of them."""

from __future__ import annotations

from pathlib import Path

from router.chat.tokenizer import load_tokenizer
from router.engine.guide import Guide
from router.engine.request import GenerationRequest
from router.engine.rules import AnswerRules
from router.guidance.compiler import GrammarCompiler
from router.guidance.vocabulary import Vocabulary, build_vocabulary


class GuideMaker:
    """Makes guides. One for a gateway; loads the tokenizer when the first is asked for."""

    def __init__(self, checkpoint: Path | None, num_logits: int) -> None:
        """``checkpoint``: where the tokenizer lies; ``num_logits``: of the model, a row."""
        self.compiler = GrammarCompiler(lambda: _vocabulary(checkpoint, num_logits))

    async def guides(self, request: GenerationRequest) -> tuple[Guide, ...]:
        """A guide for each open choice, behind the tokens that it has generated elsewhere.

        What takes longer than a moment is done on the compiler's thread.

        Raises:
            InvalidRequestError: The grammar cannot be compiled.
            OverloadedError: Too many grammars are waiting.
        """
        rules = request.rules
        if rules is None:
            return ()
        if self.compiler.is_known(rules.grammar) and not request.resumed:
            return self._guides(request, rules)
        return await self.compiler.run(lambda: self._guides(request, rules))

    def guides_now(self, request: GenerationRequest) -> tuple[Guide, ...]:
        """As ``guides``, on this thread."""
        return () if request.rules is None else self._guides(request, request.rules)

    def _guides(self, request: GenerationRequest, rules: AnswerRules) -> tuple[Guide, ...]:
        guides = []
        for choice in request.open_choices:
            matcher = self.compiler.matcher(rules.grammar) if rules.grammar else None
            guide = Guide(rules, self.compiler.vocabulary.marks, matcher)
            for token_id in request.resumed[choice].token_ids if request.resumed else ():
                guide.advance(token_id)
            guides.append(guide)
        return tuple(guides)


def _vocabulary(checkpoint: Path | None, num_logits: int) -> Vocabulary:
    return build_vocabulary(load_tokenizer(checkpoint), num_logits)
