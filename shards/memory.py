"""Memory that loading took and serving does not need."""

from __future__ import annotations

import ctypes
import sys

from shards.checkpoint.weights import Checkpoint


def release_after_loading(checkpoint: Checkpoint) -> None:
    """Give back the file's pages and the heap's free ones.

    Packed weights are copies: the pages that they were read from are not needed again, and views of
    the file read theirs again when they are used. The scratch of packing lies between the packed
    weights on the heap, where glibc keeps it (a third of the weights, measured on the 1b).
    """
    checkpoint.release()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's own
        if trim is not None:
            trim(0)
