"""What other threads ask of the engine's: calls that end in futures."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeAlias, TypeVar

from galerne.errors import GalerneError

logger = logging.getLogger(__name__)

Command: TypeAlias = Callable[[], None]
_T = TypeVar("_T")


def settle(future: Future[_T], what: Callable[[], _T | Future[_T]]) -> None:
    """Call; the future ends as the call does, or as the future that it returns.

    A caller that gave the future up hears nothing; what was asked for is done all the same.
    """
    is_wanted = future.set_running_or_notify_cancel()
    try:
        result = what()
    except Exception as error:  # goes to the caller; the loop must live on
        if not isinstance(error, GalerneError):
            logger.exception("engine_command_failed")
        if is_wanted:
            future.set_exception(error)
        return
    if not is_wanted:
        return
    if isinstance(result, Future):
        _follow(result, future)
    else:
        future.set_result(result)


def _follow(inner: Future[_T], outer: Future[_T]) -> None:
    def copy(done: Future[_T]) -> None:
        error = done.exception()
        if error is not None:
            outer.set_exception(error)
        else:
            outer.set_result(done.result())

    inner.add_done_callback(copy)
