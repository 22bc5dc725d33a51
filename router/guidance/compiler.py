"""Compiles grammars, each once while it is remembered, on a thread of its own."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import llguidance

from galerne.errors import InvalidRequestError, OverloadedError
from router.guidance.matcher import GrammarMatcher
from router.guidance.vocabulary import Vocabulary

MAX_CACHED = 128
MAX_CACHED_CHARS = 4 << 20
TIMEOUT_S = 30.0  # for what waits for the thread
RETRY_AFTER_S = 5.0
_MAX_PROBLEM_CHARS = 400
_EXCERPT = re.compile(r"\n\s*\d+ \| ")
# Messages go into logs, so they may hold nothing of the grammar or the answer. A state takes 1 to
# 2 kB; the other limits are the library's: about 15 ms for a mask.
_LIMITS = llguidance.LLParserLimits(verbose_errors=False, max_lexer_states=50_000)

_T = TypeVar("_T")


class GrammarCompiler:
    """Grammars of one vocabulary. Threads may share it.

    One thread: a costly grammar delays other new ones, and takes one core at most. Known grammars
    wait for nothing.
    """

    def __init__(self, load_vocabulary: Callable[[], Vocabulary]) -> None:
        """``load_vocabulary`` is called once, by who needs it first."""
        self.num_compiled = 0
        self._load_vocabulary = load_vocabulary
        self._vocabulary: Vocabulary | None = None
        self._lock = threading.Lock()  # of the next two, and of the loading
        self._compiled: OrderedDict[str, llguidance.LLMatcher] = OrderedDict()
        self._num_chars = 0
        self._thread = ThreadPoolExecutor(1, "grammar")

    @property
    def vocabulary(self) -> Vocabulary:
        """The tokens; loaded if nobody has needed them yet."""
        with self._lock:
            if self._vocabulary is None:
                self._vocabulary = self._load_vocabulary()
            return self._vocabulary

    def is_known(self, grammar: str) -> bool:
        """Whether ``matcher`` would answer at once; for no grammar, whether the tokens are loaded.

        Never waits: while the tokens are being loaded nothing is known.
        """
        return self._vocabulary is not None and (not grammar or grammar in self._compiled)

    def matcher(self, grammar: str) -> GrammarMatcher:
        """A new matcher at the start of a grammar, which is compiled if it is not known.

        Args:
            grammar: Lark with llguidance's extensions.

        Raises:
            InvalidRequestError: It is none, or too costly; names ``grammar``.
        """
        vocabulary = self.vocabulary
        with self._lock:
            known = self._compiled.get(grammar)
            if known is not None:
                self._compiled.move_to_end(grammar)
        if known is None:
            known = self._compile(grammar, vocabulary)
        return GrammarMatcher(known.deep_copy(), vocabulary.marks)

    async def run(self, what: Callable[[], _T]) -> _T:
        """Do something on the compiler's thread.

        Raises:
            OverloadedError: Its turn did not come in time, or it takes too long.
        """
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(TIMEOUT_S):
                return await loop.run_in_executor(self._thread, what)
        except TimeoutError as error:
            raise OverloadedError("grammar compiler", MAX_CACHED, RETRY_AFTER_S) from error

    def _compile(self, grammar: str, vocabulary: Vocabulary) -> llguidance.LLMatcher:
        parsed = json.dumps({"grammars": [{"lark_grammar": grammar}]})
        compiled = llguidance.LLMatcher(vocabulary.tokens, parsed, log_level=0, limits=_LIMITS)
        if compiled.is_error():
            raise InvalidRequestError("grammar", _problem(compiled.get_error()))
        with self._lock:
            self.num_compiled += 1
            if grammar not in self._compiled:
                self._compiled[grammar] = compiled
                self._num_chars += len(grammar)
            while len(self._compiled) > MAX_CACHED or self._num_chars > MAX_CACHED_CHARS:
                oldest, _ = self._compiled.popitem(last=False)
                self._num_chars -= len(oldest)
        return compiled


def _problem(error: str) -> str:
    """What is wrong, without the excerpt of a grammar that the client may never have seen."""
    return _EXCERPT.split(error, maxsplit=1)[0].strip()[:_MAX_PROBLEM_CHARS]
