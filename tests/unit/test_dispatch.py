import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from galerne.errors import ProtocolError
from galerne.frame import DType, FrameHeader, FrameKind, Reassembler, encode
from galerne.ids import ShardId
from router.exchange.combine import combine
from router.exchange.dispatch import choose_shards, cut, group_slots, rows_of, slots_by_owner
from shards.merge import merge, split
from shards.wire import (
    RequestRows,
    index_bytes,
    read_request,
    request_sections,
    tensor_bytes,
    tensor_of,
)

HIDDEN = 4
relaxed = settings(deadline=None, max_examples=50)  # the first call of torch takes its time


def create_routing(seed, num_tokens, num_experts, top_k):
    """``[T, K]`` distinct experts per token, ascending."""
    rng = np.random.default_rng(seed)
    scores = rng.random((num_tokens, num_experts))
    return np.sort(np.argsort(scores, axis=1)[:, :top_k], axis=1)


@st.composite
def routings(draw):
    num_experts = draw(st.integers(1, 12))
    top_k = draw(st.integers(1, min(4, num_experts)))
    return create_routing(draw(st.integers(0, 2**32)), draw(st.integers(1, 20)), num_experts, top_k)


def fake_bank(rows, layer=0):
    """``y = f(expert, x)`` row by row, exact in any order."""
    experts = np.repeat(rows.expert_ids, rows.num_rows_by_group)
    x = rows.tokens[torch.from_numpy(rows.row_token)]
    return x * torch.from_numpy(experts + 1)[:, None] + layer


# -- which rows go where ---------------------------------------------------------------------


@relaxed
@given(routings(), st.integers(1, 4), st.integers(1, 9), st.data())
def test_every_slot_is_in_exactly_one_frame_of_a_shard_that_holds_its_expert(
    expert_ids, num_shards, row_budget, data
):
    shard_of = {e: f"shard-{e % num_shards}" for e in range(12)}
    wanted = data.draw(st.sets(st.integers(0, expert_ids.size - 1)))
    slots = np.array(sorted(wanted), dtype=np.int64)
    seen = []
    for shard, mine in group_slots(expert_ids, slots, shard_of).items():
        for part in cut(mine, row_budget):
            frame = rows_of(expert_ids, part)
            assert 0 < len(frame.slots) <= row_budget
            assert {shard_of[e] for e in frame.expert_ids.tolist()} == {shard}
            seen += frame.slots.tolist()
    assert sorted(seen) == slots.tolist()


@relaxed
@given(routings(), st.randoms(use_true_random=False))
def test_a_frame_names_every_token_once_and_its_groups_ascend(expert_ids, random):
    slots = np.array(random.sample(range(expert_ids.size), random.randint(1, expert_ids.size)))
    frame = rows_of(expert_ids, slots)
    assert len(set(frame.tokens.tolist())) == len(frame.tokens)
    assert (np.diff(frame.expert_ids) > 0).all()
    assert frame.num_rows_by_group.min() > 0
    assert frame.num_rows_by_group.sum() == len(frame.row_token) == len(slots)
    # Every row is what its slot says: that token, that expert.
    top_k = expert_ids.shape[1]
    experts = np.repeat(frame.expert_ids, frame.num_rows_by_group)
    assert (frame.tokens[frame.row_token] == frame.slots // top_k).all()
    assert (experts == expert_ids.reshape(-1)[frame.slots]).all()


@relaxed
@given(routings(), st.randoms(use_true_random=False))
def test_a_frame_has_the_same_rows_whatever_the_order_of_its_slots(expert_ids, random):
    slots = np.arange(expert_ids.size)
    shuffled = slots.copy()
    random.shuffle(shuffled)
    once, again = rows_of(expert_ids, slots), rows_of(expert_ids, shuffled)
    assert set(zip(once.slots, once.tokens[once.row_token], strict=True)) == set(
        zip(again.slots, again.tokens[again.row_token], strict=True)
    )
    assert once.expert_ids.tolist() == again.expert_ids.tolist()
    assert once.num_rows_by_group.tolist() == again.num_rows_by_group.tolist()


def test_no_slots_make_no_frames():
    assert group_slots(np.zeros((0, 2), np.int64), np.zeros(0, np.int64), {}) == {}


# -- which replica ---------------------------------------------------------------------------

SHARDS = [f"shard-{i}" for i in range(4)]
replica_lists = st.lists(st.sampled_from(SHARDS), min_size=1, max_size=3, unique=True).map(tuple)


@relaxed
@given(
    st.lists(replica_lists, min_size=1, max_size=12),
    st.sets(st.sampled_from(SHARDS)),
    st.randoms(use_true_random=False),
)
def test_the_choice_is_a_usable_replica_wherever_there_is_one(replicas, usable, random):
    touched = random.sample(range(len(replicas)), random.randint(1, len(replicas)))
    rows = [random.randint(1, 9) for _ in touched]
    chosen = choose_shards(touched, rows, replicas, usable)
    assert set(chosen) == set(touched)
    for expert, shard in chosen.items():
        candidates = set(replicas[expert]) & usable
        assert (shard in candidates) if candidates else (shard is None)


@relaxed
@given(
    st.lists(replica_lists, min_size=1, max_size=12),
    st.sets(st.sampled_from(SHARDS)),
    st.randoms(use_true_random=False),
)
def test_the_choice_does_not_depend_on_the_order_of_its_arguments(replicas, usable, random):
    touched = list(range(len(replicas)))
    rows = {e: random.randint(1, 3) for e in touched}
    shuffled = random.sample(touched, len(touched))
    first = choose_shards(touched, [rows[e] for e in touched], replicas, usable)
    again = choose_shards(
        shuffled, [rows[e] for e in shuffled], replicas, frozenset(sorted(usable, reverse=True))
    )
    assert first == again


@relaxed
@given(st.integers(1, 40), st.integers(1, 4), st.randoms(use_true_random=False))
def test_distinct_experts_are_level_where_every_shard_holds_all(num_touched, num_shards, random):
    shards = SHARDS[:num_shards]
    replicas = [tuple(random.sample(shards, num_shards)) for _ in range(num_touched)]
    rows = [random.randint(1, 100) for _ in range(num_touched)]
    chosen = choose_shards(range(num_touched), rows, replicas, set(shards))
    counts = [list(chosen.values()).count(shard) for shard in shards]
    assert max(counts) - min(counts) <= 1


def test_ties_go_to_the_replica_listed_first():
    chosen = choose_shards([0, 1], [1, 1], [("b", "a"), ("b", "a")], {"a", "b"})
    assert chosen == {0: "b", 1: "a"}


# -- the way back ----------------------------------------------------------------------------


@relaxed
@given(st.integers(0, 2**32), st.integers(1, 9), st.integers(1, 4))
def test_combine_equals_a_float64_reference(seed, num_tokens, top_k):
    generator = torch.Generator().manual_seed(seed)
    shared = torch.randn(num_tokens, HIDDEN, generator=generator)
    rows = torch.randn(num_tokens, top_k, HIDDEN, generator=generator)
    weights = torch.rand(num_tokens, top_k, generator=generator)
    reference = shared.double() + (rows.double() * weights.double()[:, :, None]).sum(1)
    assert (combine(shared, rows, weights).double() - reference).abs().max() < 1e-5
    # bf16: one rounding, so within half a unit in the last place (2**-8) of the float32 sum
    narrow = combine(shared.bfloat16(), rows.bfloat16(), weights)
    wide = combine(shared.bfloat16().float(), rows.bfloat16().float(), weights)
    assert narrow.dtype is torch.bfloat16
    assert torch.equal(narrow, wide.bfloat16())


@relaxed
@given(routings(), st.integers(1, 5), st.randoms(use_true_random=False))
def test_combine_does_not_depend_on_how_rows_were_cut_and_in_which_order_they_came(
    expert_ids, row_budget, random
):
    num_tokens, top_k = expert_ids.shape
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(num_tokens, HIDDEN, generator=generator)
    weights = torch.rand(num_tokens, top_k, generator=generator)

    def exchanged(num_shards, budget):
        frames = [
            rows_of(expert_ids, part)
            for mine in group_slots(
                expert_ids, np.arange(expert_ids.size), {e: e % num_shards for e in range(12)}
            ).values()
            for part in cut(mine, budget)
        ]
        random.shuffle(frames)
        buffer = torch.full((expert_ids.size, HIDDEN), torch.nan)
        for frame in frames:
            request = RequestRows(
                x[frame.tokens], frame.expert_ids, frame.num_rows_by_group, frame.row_token
            )
            buffer[torch.from_numpy(frame.slots)] = fake_bank(request)
        return combine(x, buffer.view(num_tokens, top_k, HIDDEN), weights)

    assert torch.equal(exchanged(1, 10_000), exchanged(3, row_budget))


# -- the shard's side ------------------------------------------------------------------------


@st.composite
def request_rows(draw, max_groups=4):
    """Any frame that the wire allows: experts in any order, also twice, also without rows."""
    num_tokens = draw(st.integers(1, 5))
    counts = draw(st.lists(st.integers(0, 3), max_size=max_groups))
    experts = [draw(st.integers(0, 5)) for _ in counts]
    row_token = [draw(st.integers(0, num_tokens - 1)) for _ in range(sum(counts))]
    tokens = torch.randint(-9, 9, (num_tokens, HIDDEN), generator=torch.Generator().manual_seed(1))
    return RequestRows(
        tokens.float() + draw(st.integers(0, 99)),
        *(np.array(values, dtype=np.int64) for values in (experts, counts, row_token)),
        draw(st.none() | st.lists(KEYS, min_size=num_tokens, max_size=num_tokens).map(keys_of)),
    )


KEYS = st.sampled_from([0, 1, 1 << 40, (1 << 64) - 1])


def keys_of(values):
    return np.array(values, dtype=np.uint64)


@relaxed
@given(st.lists(request_rows(), min_size=1, max_size=5))
def test_merged_frames_give_what_each_gives_alone(frames):
    merged = merge(frames)
    parts = split(merged, fake_bank(merged.rows))
    assert len(parts) == len(frames)
    for frame, part in zip(frames, parts, strict=True):
        assert torch.equal(part, fake_bank(frame))


@relaxed
@given(st.lists(request_rows(), min_size=2, max_size=5))
def test_a_merged_pass_reads_every_expert_once(frames):
    experts = merge(frames).rows.expert_ids
    assert (np.diff(experts) > 0).all()


@relaxed
@given(request_rows(), st.sampled_from([torch.float32, torch.bfloat16]), st.integers(8, 64))
def test_a_request_survives_the_wire(rows, dtype, chunk_bytes):
    sent = rows._replace(tokens=rows.tokens.to(dtype))
    got = read_request(over_the_wire(sent, chunk_bytes))
    assert torch.equal(got.tokens, sent.tokens)
    for ours, theirs in zip(sent[1:4], got[1:4], strict=True):
        assert ours.tolist() == theirs.tolist()
    keys = [None if r.adapters is None else r.adapters.tolist() for r in (sent, got)]
    assert keys[0] == keys[1]


def test_adapters_of_another_number_of_tokens_are_refused():
    ids = np.array([0, 1])
    rows = RequestRows(torch.zeros((2, HIDDEN)), ids, np.ones(2, int), ids, keys_of([5]))
    with pytest.raises(ProtocolError, match="1 adapters of 2 tokens"):
        read_request(over_the_wire(rows))


def over_the_wire(rows, chunk_bytes=1 << 20, **changes):
    header = FrameHeader(
        **{
            "kind": FrameKind.REQUEST,
            "dtype": DType.BF16 if rows.tokens.dtype is torch.bfloat16 else DType.FLOAT32,
            "num_tokens": len(rows.tokens),
            "num_rows": len(rows.row_token),
            "hidden_size": HIDDEN,
            **changes,
        }
    )
    reassembler = Reassembler(1 << 20)
    *_, frame = [reassembler.push(m) for m in encode(header, request_sections(rows), chunk_bytes)]
    return frame


def create_request(**changes):
    fields = {"expert_ids": [1, 2], "num_rows_by_group": [1, 1], "row_token": [0, 1], **changes}
    return RequestRows(
        torch.zeros(2, HIDDEN), **{k: np.array(v, dtype=np.int64) for k, v in fields.items()}
    )


@pytest.mark.parametrize(
    ("changes", "header", "problem"),
    [
        ({"num_rows_by_group": [1]}, {}, "contradict"),
        ({"num_rows_by_group": [1, 2]}, {}, "contradict"),
        ({"row_token": []}, {"num_rows": 0}, "contradict"),
        ({"expert_ids": [], "num_rows_by_group": []}, {}, "contradict"),
        ({}, {"num_rows": 3}, "header says 3"),
        ({"row_token": [0, 2]}, {}, "token that the frame lacks"),
        ({}, {"num_tokens": 3}, "do not hold"),
        ({}, {"hidden_size": HIDDEN + 1}, "do not hold"),
        ({}, {"dtype": DType.BF16}, "do not hold"),
    ],
)
def test_a_request_that_contradicts_itself_is_refused(changes, header, problem):
    with pytest.raises(ProtocolError, match=problem):
        read_request(over_the_wire(create_request(**changes), **header))


@pytest.mark.parametrize("missing", range(4))
def test_a_request_without_a_section_is_refused(missing):
    sections = request_sections(create_request())
    del sections[missing]
    (message,) = encode(FrameHeader(kind=FrameKind.REQUEST), sections)
    frame = Reassembler(1 << 20).push(message)
    with pytest.raises(ProtocolError, match="without section"):
        read_request(frame)


@pytest.mark.parametrize("num_rows", [0, 1, 3])
def test_result_rows_survive_the_wire_also_when_there_are_none(num_rows):
    rows = torch.randn(num_rows, HIDDEN).bfloat16()
    data = memoryview(tensor_bytes(rows))
    assert torch.equal(tensor_of(data, (num_rows, HIDDEN), DType.BF16), rows)
    assert index_bytes(np.array([1, 258])) == b"\1\0\0\0\2\1\0\0"


@given(st.integers(0, 2**32), st.integers(1, 20), st.integers(1, 5))
def test_slots_by_owner_are_those_of_the_general_way(seed, num_tokens, num_owners):
    rng = np.random.default_rng(seed)
    expert_ids = np.sort(np.stack([rng.permutation(12)[:3] for _ in range(num_tokens)]), axis=1)
    owner = rng.integers(0, num_owners, 12)
    names = {e: ShardId(str(owner[e])) for e in range(12)}
    want = group_slots(expert_ids, np.arange(expert_ids.size), names)
    got = slots_by_owner(expert_ids, owner, num_owners)
    assert len(got) == num_owners
    for number, slots in enumerate(got):
        assert np.array_equal(slots, want.get(ShardId(str(number)), np.zeros(0, dtype=np.int64)))
