"""Room on a GPU for experts and adapters: what does not fit is refused before it is loaded."""

import gc

import pytest
import torch

from helpers.adapters import opened
from helpers.fixture_models import checkpoint
from shards.adapters.sizes import adapter_tensors, ranks_of
from shards.bank import ExpertBank
from shards.device_room import DeviceFullError, DeviceRoom
from shards.kernels.device_sizes import allocated_bytes, expert_tensors
from shards.kernels.formats import WeightFormat

SOURCE = checkpoint("tiny-hf-bf16")
CONFIG = SOURCE.config
BF16 = torch.bfloat16
EXPERT = int(
    allocated_bytes(expert_tensors(CONFIG.hidden_size, CONFIG.expert_size, WeightFormat.BF16, 2))
)
TWO, FOUR = {0: [0, 1]}, {0: [0, 1], 1: [0, 1]}


def bank(room, experts=TWO):
    return ExpertBank(SOURCE, experts, BF16, room=room)


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    return opened(tmp_path_factory.mktemp("one") / "sql", CONFIG, dense=False, layers=[0])


def share_of(adapter, num_experts):
    routed = adapter_tensors(ranks_of(adapter), CONFIG, 2).routed
    return int(allocated_bytes(routed)) * num_experts // CONFIG.num_experts


def test_experts_that_do_not_fit_are_refused_with_what_they_need_and_what_is_free():
    with pytest.raises(DeviceFullError, match=r"4 routed experts takes .* of the GPU") as refused:
        bank(DeviceRoom(4 * EXPERT - 1), FOUR)
    assert (refused.value.needed_bytes, refused.value.free_bytes) == (4 * EXPERT, 4 * EXPERT - 1)


def test_experts_that_leave_make_room_for_others_and_those_that_are_here_need_none():
    held = bank(room := DeviceRoom(2 * EXPERT))
    assert room.free_bytes == 0
    held.load(TWO)
    with pytest.raises(DeviceFullError, match="1 routed experts"):
        held.load({0: [1, 2]})
    assert not held.holds(0, 2)
    held.drop({0: [0]})
    held.load({0: [1, 2]})
    assert room.free_bytes == 0
    del held
    gc.collect()
    assert room.free_bytes == 2 * EXPERT


def test_an_adapter_takes_room_for_the_experts_that_are_here_and_for_those_that_come(adapter):
    two = share_of(adapter, 2)
    held = bank(room := DeviceRoom(4 * EXPERT + 3 * two // 2))
    assert held.adapter_bytes(adapter) == two
    held.add_adapter(adapter, "sql")
    assert held.adapter_bytes(adapter) == 0
    assert room.free_bytes == 2 * EXPERT + two // 2
    held.load({0: [2]})
    with pytest.raises(DeviceFullError):
        held.load({0: [3]})
    held.drop_adapter(adapter.key)
    held.load({0: [3]})
    assert room.free_bytes == 3 * two // 2


def test_an_adapter_that_does_not_fit_is_refused_by_its_name_and_may_come_later(adapter):
    held = bank(DeviceRoom(2 * EXPERT + share_of(adapter, 2) - 1))
    with pytest.raises(DeviceFullError, match=r"adapter sql takes .* free for it: unload another"):
        held.add_adapter(adapter, "sql")
    assert held.adapters == frozenset()
    held.drop({0: [1]})
    held.add_adapter(adapter, "sql")
    assert held.adapters == {adapter.id}


def test_host_memory_has_no_limit(adapter):
    held = bank(None, FOUR)
    held.add_adapter(adapter)
    assert held.adapters == {adapter.id}
    assert DeviceRoom(None).free_bytes is None
