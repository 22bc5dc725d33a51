import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from router.engine.block_pool import NULL_BLOCK, BlockPool


def create_pool(num_blocks: int = 5, block_size: int = 4) -> BlockPool:
    return BlockPool(num_blocks, block_size)


def publish_new(pool: BlockPool, *keys: bytes) -> list[int]:
    blocks = pool.allocate(len(keys))
    assert blocks is not None
    for block, key in zip(blocks, keys, strict=True):
        pool.publish(block, key)
    return blocks


def test_null_block_is_never_handed_out():
    pool = create_pool(num_blocks=5)
    blocks = pool.allocate(4)
    assert blocks is not None
    assert sorted(blocks) == [1, 2, 3, 4]
    assert NULL_BLOCK not in blocks


def test_allocation_takes_all_or_nothing():
    pool = create_pool(num_blocks=5)
    assert pool.allocate(5) is None
    assert pool.num_free == 4
    assert pool.allocate(0) == []


def test_released_block_keeps_its_content_until_the_room_is_needed():
    pool = create_pool(num_blocks=3)
    (block,) = publish_new(pool, b"a")
    pool.release([block])
    assert pool.lookup(b"a") == block

    other = pool.allocate(1)
    assert other != [block]
    assert pool.lookup(b"a") == block
    assert pool.allocate(1) == [block]
    assert pool.lookup(b"a") is None
    assert pool.num_evictions == 1


def test_eviction_takes_the_tail_of_a_sequence_before_its_head():
    pool = create_pool(num_blocks=4)
    table = publish_new(pool, b"head", b"middle", b"tail")
    pool.release(table)
    assert [pool.allocate(1) for _ in range(3)] == [[table[2]], [table[1]], [table[0]]]


def test_eviction_takes_the_least_recently_released_sequence_first():
    pool = create_pool(num_blocks=3)
    (old,) = publish_new(pool, b"old")
    (new,) = publish_new(pool, b"new")
    pool.release([new])
    pool.release([old])
    pool.acquire([new])
    pool.release([new])
    assert pool.allocate(1) == [old]


def test_acquired_block_cannot_be_evicted_and_counts_as_hit():
    pool = create_pool(num_blocks=2)
    (block,) = publish_new(pool, b"a")
    pool.release([block])
    pool.acquire([block])
    assert pool.allocate(1) is None
    assert (pool.num_used, pool.num_refs(block), pool.num_hits) == (1, 1, 1)


def test_first_block_published_under_a_key_stays():
    pool = create_pool()
    first, second = pool.allocate(2) or []
    pool.publish(first, b"a")
    pool.publish(second, b"a")
    assert pool.lookup(b"a") == first
    pool.release([second])
    assert pool.num_cached == 1


def test_prefix_lookup_stops_at_the_first_gap_and_at_the_limit():
    pool = create_pool()
    a, b, _ = publish_new(pool, b"a", b"b", b"d")
    assert pool.lookup_prefix([b"a", b"b", b"c", b"d"], limit=4) == [a, b]
    assert pool.lookup_prefix([b"a", b"b"], limit=1) == [a]


def test_reset_forgets_content_but_not_holders():
    pool = create_pool(num_blocks=3)
    held, freed = publish_new(pool, b"held", b"freed")
    pool.release([freed])
    pool.reset_cache()
    assert pool.lookup(b"held") is None
    assert pool.lookup(b"freed") is None
    assert pool.num_refs(held) == 1
    assert pool.allocate(1) == [freed]
    assert pool.num_evictions == 0


@pytest.mark.parametrize(
    "misuse",
    [
        lambda pool: pool.allocate(-1),
        lambda pool: pool.release([1]),
        lambda pool: pool.release([NULL_BLOCK]),
        lambda pool: pool.acquire([1]),
        lambda pool: pool.publish(1, b"a"),
        lambda pool: (publish_new(pool, b"a"), pool.publish(1, b"b")),
        lambda _: BlockPool(1, 4),
        lambda _: BlockPool(4, 0),
    ],
)
def test_misuse_is_refused(misuse):
    with pytest.raises(ValueError, match="block"):
        misuse(create_pool())


class PoolMachine(RuleBasedStateMachine):
    """The pool beside a memory: every block holds the name of what was last written to it."""

    @initialize(num_blocks=st.integers(2, 8))
    def start(self, num_blocks: int) -> None:
        self.pool = BlockPool(num_blocks, block_size=4)
        self.tables: list[list[int]] = []
        self.content: dict[int, bytes] = {}
        self.num_writes = 0

    @rule(num_blocks=st.integers(0, 4))
    def allocate(self, num_blocks: int) -> None:
        num_free = self.pool.num_free
        held = {block for table in self.tables for block in table}
        table = self.pool.allocate(num_blocks)
        assert (table is None) == (num_blocks > num_free)
        if table is None:
            return
        assert len(set(table)) == num_blocks
        assert not held & set(table)
        for block in table:
            self.num_writes += 1
            self.content[block] = b"unfinished %d" % self.num_writes
        self.tables.append(table)

    @precondition(lambda self: any(self.tables))
    @rule(data=st.data(), key=st.sampled_from([b"a", b"b", b"c", b"d"]))
    def complete_and_publish(self, data: st.DataObject, key: bytes) -> None:
        block = data.draw(st.sampled_from([b for table in self.tables for b in table]))
        if not self.content[block].startswith(b"unfinished"):
            key = self.content[block]
        self.content[block] = key
        self.pool.publish(block, key)
        assert self.pool.lookup(key) is not None

    @rule(keys=st.lists(st.sampled_from([b"a", b"b", b"c", b"d"]), unique=True, max_size=3))
    def acquire(self, keys: list[bytes]) -> None:
        hits = self.pool.lookup_prefix(keys, len(keys))
        num_free, num_hits = self.pool.num_free, self.pool.num_hits
        num_taken = self.pool.count_free(hits)
        self.pool.acquire(hits)
        assert self.pool.num_free == num_free - num_taken
        assert self.pool.num_hits == num_hits + len(hits)
        self.tables.append(hits)

    @precondition(lambda self: self.tables)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        index = data.draw(st.integers(0, len(self.tables) - 1))
        self.pool.release(self.tables.pop(index))

    @rule()
    def reset(self) -> None:
        self.pool.reset_cache()
        assert self.pool.num_cached == 0

    @invariant()
    def refs_count_the_holders(self) -> None:
        held = [block for table in self.tables for block in table]
        for block in range(self.pool.num_blocks):
            assert self.pool.num_refs(block) == held.count(block)
        assert self.pool.num_used == len(set(held))
        assert self.pool.num_free + self.pool.num_used == self.pool.num_blocks - 1
        assert NULL_BLOCK not in held

    @invariant()
    def lookups_find_only_the_content_of_the_key(self) -> None:
        for key in (b"a", b"b", b"c", b"d"):
            block = self.pool.lookup(key)
            assert block is None or self.content[block] == key


TestPoolMachine = PoolMachine.TestCase
TestPoolMachine.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
