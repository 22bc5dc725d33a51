"""Documents of a seed, put together into steps."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from cluster.demo.lessons.curriculum import draw_document
from cluster.demo.lessons.document import Document
from cluster.demo.training.model import Rows
from cluster.demo.training.render import Rendered, Renderer

DRAWN = 16  # documents drawn at once, then joined and shuffled
MAX_TURNS = 3  # documents joined into one conversation
MIN_FILL = 0.8  # a sequence shorter than this share of its group's longest starts another group
PAD = 11


class Batch(NamedTuple):
    """What one worker does in one step."""

    rows: Rows
    target_rows: torch.Tensor  # [A] rows whose next id is to be written
    target_ids: torch.Tensor  # [A] those ids
    pictures: list[npt.NDArray[np.uint8]]  # in the order of their [IMG] tokens

    def to(self, device: torch.device) -> Batch:
        """The same with its tensors on a device."""
        ids, is_token, groups = self.rows
        rows = Rows(ids.to(device), is_token.to(device), groups)
        return Batch(rows, self.target_rows.to(device), self.target_ids.to(device), self.pictures)


def batch_of(renderer: Renderer, seed: str, progress: float, tokens: int) -> Batch:
    """The batch of about ``tokens`` tokens that a seed stands for.

    ``progress``, from 0 to 1, is how far the training is: it sets the mix of lessons.
    """
    rng = Random(seed)
    chosen: list[Rendered] = []
    filled = 0
    while True:
        documents = [draw_document(rng, progress) for _ in range(DRAWN)]
        for document in join(rng, documents):
            chosen.append(renderer.render(document))
            filled += len(chosen[-1].ids)
            if filled >= tokens:
                return pack(chosen)


def join(rng: Random, documents: Sequence[Document]) -> list[Document]:
    """Some plain documents of equal effort as one conversation; all in random order."""
    joined = [document for document in documents if not _is_plain(document)]
    for effort in ("none", "high"):
        plain = [d for d in documents if _is_plain(d) and d.effort == effort]
        while plain:
            count = rng.randint(1, MAX_TURNS)
            parts, plain = plain[:count], plain[count:]
            messages = tuple(message for part in parts for message in part.messages)
            joined.append(parts[-1]._replace(messages=messages))
    rng.shuffle(joined)
    return joined


def _is_plain(document: Document) -> bool:
    first = document.messages[0]
    return not document.tools and first.role == "user" and first.picture is None


def pack(documents: Sequence[Rendered]) -> Batch:
    """Sequences sorted by length, longest first, in groups padded alike."""
    ordered = sorted(documents, key=lambda document: -len(document.ids))
    groups: list[tuple[int, int]] = []
    ids: list[int] = []
    is_token: list[bool] = []
    target_rows: list[int] = []
    target_ids: list[int] = []
    for document in ordered:
        length = len(document.ids)
        if not groups or length < MIN_FILL * groups[-1][1]:
            groups.append((0, length))
        count, width = groups[-1]
        groups[-1] = (count + 1, width)
        first = len(ids)
        ids += document.ids + [PAD] * (width - length)
        is_token += [True] * length + [False] * (width - length)
        places = [i for i, wanted in enumerate(document.is_target) if wanted]
        target_rows += [first + i - 1 for i in places]
        target_ids += [document.ids[i] for i in places]
    rows = Rows(torch.tensor(ids), torch.tensor(is_token), tuple(groups))
    pictures = [picture for document in ordered for picture in document.pictures]
    return Batch(rows, torch.tensor(target_rows), torch.tensor(target_ids), pictures)
