import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from galerne.errors import ProtocolError
from galerne.frame import FrameHeader, FrameKind
from router.exchange.dispatch import rows_of
from shards.shm.frames import read_reply, read_request, write_reply, write_request
from shards.shm.memory import OwnedMemory, open_shared
from shards.shm.rings import OwnBell, RingReader, RingWriter, ring_bytes, ring_library
from shards.times import ShardTimes
from shards.wire import RequestRows

HIDDEN = 8
CAPACITY = 4096
INCARNATION = 7
LONG_S = 30.0  # for a sleeper that is woken, on a busy machine too

pytestmark = pytest.mark.skipif(ring_library() is None, reason="no native library")


class Ring:
    def __init__(self, capacity=CAPACITY):
        self.memory = OwnedMemory(ring_bytes(capacity))
        self.writer = RingWriter(self.memory, 0, capacity)
        self.reader = RingReader(self.memory, 0, capacity)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.memory.withdraw()

    def reply(self, number, num_rows):
        header = FrameHeader(kind=FrameKind.REQUEST, frame=number)
        return write_reply(self.writer, header, rows_for(number, num_rows))

    def read(self):
        at = self.reader.next()
        return None if at is None else read_reply(self.reader, at)


def rows_for(number, num_rows):
    generator = torch.Generator().manual_seed(number)
    return torch.randn(num_rows, HIDDEN, generator=generator).to(torch.bfloat16)


@settings(deadline=None)
@given(st.lists(st.one_of(st.integers(0, 120), st.just("read"), st.just("free")), max_size=60))
def test_whatever_is_written_is_read_in_order_and_whole(steps):
    """Integers write a reply of so many rows; where there is no room, nothing changes."""
    with Ring() as ring:
        written, num_read = [], 0
        for number, step in enumerate(steps):
            if step == "free":
                ring.reader.free()
            elif step == "read":
                if num_read < len(written):
                    frame, rows, age_s, _ = ring.read()
                    assert 0 <= age_s < 60
                    assert frame == written[num_read][0]
                    assert torch.equal(rows, rows_for(*written[num_read]))
                    num_read += 1
                else:
                    assert ring.read() is None
            elif ring.reply(number, step):
                written.append((number, step))
        for number, num_rows in written[num_read:]:
            frame, rows, _, _ = ring.read()
            assert (frame, len(rows)) == (number, num_rows)
            assert torch.equal(rows, rows_for(number, num_rows))
        assert ring.read() is None


@settings(deadline=None)
@given(st.lists(st.integers(0, 120), min_size=1, max_size=100))
def test_a_frame_up_to_half_the_ring_always_finds_room_in_an_empty_one(sizes):
    with Ring() as ring:
        for number, num_rows in enumerate(sizes):
            assert ring.reply(number, num_rows)
            assert ring.read()[0] == number
            ring.reader.free()
        assert not ring.reply(0, CAPACITY // 2 // (2 * HIDDEN))  # and its header: over half


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(0, 120), min_size=1, max_size=2), min_size=1, max_size=100))
def test_an_empty_ring_has_room_for_two_frames_wherever_it_stands(bursts):
    with Ring() as ring:
        for sizes in bursts:
            for number, num_rows in enumerate(sizes):  # nobody reads or frees meanwhile
                assert ring.reply(number, num_rows)
            for number, num_rows in enumerate(sizes):
                frame, rows, _, _ = ring.read()
                assert frame == number
                assert torch.equal(rows, rows_for(number, num_rows))
            ring.reader.free()


def test_few_frames_stay_at_the_rings_start():
    with Ring() as ring:
        for number in range(100):
            assert ring.reply(number, 3)
            assert ring.reader.next()[0] == ring.reader.start + ring_bytes(0)
            ring.reader.free()


def test_a_reply_tells_how_long_its_request_waited_and_was_computed():
    most = ((1 << 32) - 1) / 1e6
    for told, found in (
        (ShardTimes(0.25, 0.000_017), ShardTimes(0.25, 0.000_017)),
        (ShardTimes(-1.0, 1e9), ShardTimes(0.0, most)),  # what no field holds
    ):
        with Ring() as ring:
            header = FrameHeader(kind=FrameKind.REQUEST, frame=4, num_tokens=9)
            assert write_reply(ring.writer, header, rows_for(4, 2), told)
            assert ring.read().times == found


@pytest.mark.parametrize("has_adapters", [False, True])
def test_a_request_arrives_as_it_was_sent(has_adapters):
    routing = np.array([[0, 3], [1, 3], [0, 2]])
    frame = rows_of(routing, np.array([0, 1, 3, 4]))
    source = rows_for(5, 3)
    adapters = np.array([0, (1 << 64) - 1, 5], np.uint64) if has_adapters else None
    rows = RequestRows(source, frame.expert_ids, frame.num_rows_by_group, frame.row_token, adapters)
    header = FrameHeader(
        kind=FrameKind.REQUEST,
        epoch=(1 << 32) - 1,
        step=(1 << 40) + 1,
        frame=(1 << 32) - 1,
        layer=3,
        micro_batch=1,
        attempt=2,
        num_tokens=len(frame.tokens),
        num_rows=len(frame.row_token),
        hidden_size=HIDDEN,
    )
    with Ring() as ring:
        assert write_request(ring.writer, header, rows, frame.tokens)
        found, read, age_s = read_request(ring.reader, ring.reader.next(), INCARNATION)
        assert 0 <= age_s < 60
        assert replace(found, flags=0, incarnation=0) == header
        assert found.incarnation == INCARNATION
        assert torch.equal(read.tokens, source[torch.from_numpy(frame.tokens)])
        for name in ("expert_ids", "num_rows_by_group", "row_token", "adapters"):
            assert np.array_equal(getattr(read, name), getattr(rows, name))


@pytest.mark.parametrize(
    ("word", "value", "said"),
    [
        (3, 1 << 16, "no header holds"),  # layer
        (5, 1, "no header holds"),  # epoch, its upper half
        (8, 1 << 16, "no header holds"),  # attempt
        (9, 1 << 16, "no header holds"),  # micro-batch
        (0, 0, "does not fit its ring"),  # bytes
        (0, 63, "does not fit its ring"),
        (0, 1 << 31, "does not fit its ring"),
        (10, 9, "9 is not a valid DType"),
        (11, 1 << 31, "larger than its record"),  # tokens
        (12, 1 << 30, "larger than its record"),  # groups
        (12, 1, "contradict one another"),
        (13, 1 << 31, "larger than its record"),  # rows
        (14, 1 << 31, "larger than its record"),  # hidden
        (1, 3, "of no kind"),
    ],
)
def test_nonsense_is_found_and_reaches_nothing_else(word, value, said):
    frame = rows_of(np.array([[0, 1]]), np.arange(2))
    rows = RequestRows(rows_for(0, 1), frame.expert_ids, frame.num_rows_by_group, frame.row_token)
    header = FrameHeader(kind=FrameKind.REQUEST, num_tokens=1, num_rows=2, hidden_size=HIDDEN)
    with Ring() as ring:
        assert write_request(ring.writer, header, rows)
        start = ring.reader.start + ring_bytes(0)
        record = np.frombuffer(ring.memory.map, np.uint32, 16, start)
        record[word] = value
        with pytest.raises(ProtocolError, match=said):
            read_request(ring.reader, ring.reader.next(), INCARNATION)


def test_counters_that_lie_are_found():
    with Ring() as ring:
        written, origin = np.frombuffer(ring.memory.map, np.uint64, 2, ring.reader.start)[:, None]
        for lie in (1 << 63, CAPACITY + 64, 17):
            written[0] = lie
            with pytest.raises(ProtocolError, match="does not fit its ring"):
                ring.reader.next()
        np.frombuffer(ring.memory.map, np.uint32, offset=ring.reader.start + ring_bytes(0))[:] = 64
        written[0] = 64  # from any word of the ring a record of 64 bytes could be read
        for lie in (1, CAPACITY - 4, (1 << 64) - 4):
            origin[0] = lie
            with pytest.raises(ProtocolError, match="does not fit its ring"):
                ring.reader.next()
        freed = np.frombuffer(ring.memory.map, np.uint64, 1, ring.reader.start + 64)
        freed[0] = 1 << 62
        assert not ring.reply(0, 1)


# -- bells -----------------------------------------------------------------------------------


@pytest.fixture
def bell():
    bell = OwnBell()
    yield bell
    bell.withdraw()


def seconds_of(bell, seen, timeout_s, num_rings=1):
    started = time.monotonic()
    bell.wait(seen, timeout_s, num_rings)
    return time.monotonic() - started


def test_a_ring_before_the_sleep_is_not_missed(bell):
    seen = bell.count
    bell.ring()
    assert seconds_of(bell, seen, LONG_S) < LONG_S


def test_a_sleep_ends_at_its_time(bell):
    assert 0.05 <= seconds_of(bell, bell.count, 0.05) < LONG_S
    assert seconds_of(bell, bell.count, -1.0) < LONG_S


@pytest.mark.parametrize(("num_rings", "is_urgent"), [(3, False), (1, True)])
def test_only_the_ring_that_is_waited_for_or_an_urgent_one_wakes(bell, num_rings, is_urgent):
    seen = bell.count
    ended = threading.Event()

    def sleep():
        bell.wait(seen, 2 * LONG_S, 3)
        ended.set()

    thread = threading.Thread(target=sleep)
    thread.start()
    for _ in range(num_rings - 1):
        bell.ring()
    assert not ended.wait(0.1)
    bell.ring(is_urgent=is_urgent)
    assert ended.wait(LONG_S)
    thread.join()


def test_readers_may_change_and_the_bell_go_while_somebody_sleeps(bell, no_collector):
    with Ring() as ring:
        file = os.fstat(ring.memory.file.fd)
        bell.set_readers([ring.reader])
        slept = threading.Thread(target=bell.wait, args=(bell.count, 0.2))
        slept.start()
        time.sleep(0.05)
        bell.set_readers([])
    del ring
    slept.join()
    del slept
    assert num_mappings_of(file) == 0


def test_a_bell_counts_on_beyond_32_bits(bell):
    for _ in range(1 << 16):
        bell.ring(is_urgent=True)  # 2^16 each
    seen = bell.count
    assert 0.05 <= seconds_of(bell, seen, 0.05) < LONG_S
    bell.ring()
    assert seconds_of(bell, seen, LONG_S) < LONG_S


# -- memory ----------------------------------------------------------------------------------

PEER = """
import json, sys
from galerne.hello import SharedFile
from galerne.errors import ProtocolError
from shards.shm.memory import open_shared
for line in sys.stdin:
    try:
        open_shared(SharedFile(**json.loads(line))).map[5000] = 42
    except ProtocolError as error:
        print(error, flush=True)
    else:
        print("ok", flush=True)
"""


def test_another_process_maps_what_it_was_told_and_nothing_else():
    memory = OwnedMemory(4096)
    command = [sys.executable, "-c", PEER]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as peer:

        def ask(**changes):
            peer.stdin.write(json.dumps(asdict(replace(memory.file, **changes))) + "\n")
            peer.stdin.flush()
            return peer.stdout.readline()

        assert ask() == "ok\n"
        assert memory.map[5000] == 42
        assert "another id" in ask(id="00" * 16)
        assert "another file" in ask(num_bytes=4096)
        assert "another file" in ask(fd=0)
        with tempfile.TemporaryFile() as named:  # nobody has promised not to cut it
            named.write(bytes(range(16)) * 512)
            named.flush()
            stranger = {"fd": named.fileno(), "id": bytes(range(16)).hex(), "num_bytes": 8192}
            assert "another file" in ask(**stranger)
        assert "No such file" in ask(fd=9999)
        memory.withdraw()
        assert "No such file" in ask()


def test_memory_goes_with_its_last_reference_and_has_no_name():
    memory = OwnedMemory(1 << 20)
    file = os.fstat(memory.file.fd)
    view = open_shared(memory.file)
    assert file.st_nlink == 0, "in no directory"
    memory.withdraw()
    with pytest.raises(ProtocolError):
        open_shared(memory.file)
    view.map[5000] = 1
    assert memory.map[5000] == 1
    assert num_mappings_of(file) == 2
    del memory
    assert num_mappings_of(file) == 1
    del view
    assert num_mappings_of(file) == 0


def num_mappings_of(file):
    """Other tests of this process map memory of the same name: only the inode tells."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    return sum("memfd:galerne" in line and line.split()[4] == str(file.st_ino) for line in lines)
