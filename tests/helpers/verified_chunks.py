"""What makes streams the same with guesses and without: a chunk's rows are single steps' rows."""

import numpy as np

from router.model.runner import SequenceChunk


def assert_rows_are_of_single_steps(model, ids, start, counts, blocks, others):
    """Chunks of so many tokens, one after the other; every odd one beside another sequence.

    Both ``blocks`` and ``others`` hold the keys of the tokens before ``start``.
    """
    places = range(start, len(ids))
    single = [model.run(0, [SequenceChunk(ids, p, 1, blocks, 1)])[0] for p in places]
    beside = SequenceChunk(ids, len(ids) - 1, 1, blocks, 1)
    at = 0
    for count in counts:
        chunk = SequenceChunk(ids, start + at, count, others, count)
        got = model.run(0, [chunk, beside][: 1 + count % 2])[:count]
        want = np.stack(single[at : at + count])
        assert got.tobytes() == want.tobytes(), (start + at, count)
        at += count
