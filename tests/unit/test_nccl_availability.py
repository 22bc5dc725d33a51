"""Whether NCCL can be used, with whom, and how cupy is called: without a GPU."""

import contextlib
import sys
import types

import pytest
import torch

from galerne.hello import NcclOffer
from helpers.fake_cupy import modules
from shards.nccl import availability
from shards.nccl.availability import (
    MAX_LINKS,
    NcclUnavailableError,
    host_name,
    nccl_environment,
    nccl_problem,
    refusal,
)
from shards.nccl.cupy_port import CupyPort, _Stream, open_port
from shards.nccl.port import NcclFaultError
from shards.nccl.process import NcclProcess


def offer(host="a", trusts_network=False):
    return NcclOffer(id="00" * 128, host=host, trusts_network=trusts_network)


# -- with whom ------------------------------------------------------------------------------------


@pytest.mark.parametrize("gateway_trusts", [False, True])
@pytest.mark.parametrize("shard_trusts", [False, True])
def test_within_a_host_it_is_used_and_beyond_only_if_both_ends_trust_the_network(
    gateway_trusts, shard_trusts
):
    near, far = offer("a", gateway_trusts), offer("b", gateway_trusts)
    assert refusal(near, host="a", trusts_network=shard_trusts) == ""
    problem = refusal(far, host="a", trusts_network=shard_trusts)
    assert (problem == "") is (gateway_trusts and shard_trusts)
    if problem:
        assert "not encrypted (--trusted-network nccl" in problem


def test_hosts_that_do_not_know_themselves_are_not_the_same():
    assert refusal(offer(""), host="", trusts_network=False)


def test_processes_of_a_host_and_its_loopback_know_each_other(monkeypatch, tmp_path):
    mine = host_name()
    assert mine
    host_name.cache_clear()
    other = tmp_path / "net"
    other.touch()
    monkeypatch.setattr(availability, "_NETWORK", other)
    assert host_name() != mine
    host_name.cache_clear()
    monkeypatch.setattr(availability, "_BOOT_ID", tmp_path / "nothing")
    assert host_name() == ""
    host_name.cache_clear()


def test_kernels_of_all_links_fit_beside_what_the_gpu_computes():
    h100 = nccl_environment(132, trusts_network=True, given={})
    assert MAX_LINKS * int(h100["NCCL_MAX_CTAS"]) <= 132 // 2
    assert nccl_environment(8, trusts_network=True, given={})["NCCL_MAX_CTAS"] == "1"
    assert int(h100["CUDA_DEVICE_MAX_CONNECTIONS"]) > 2 * MAX_LINKS


def test_without_trust_nccl_listens_on_loopback_alone_and_what_is_given_stays():
    assert nccl_environment(132, trusts_network=False, given={})["NCCL_SOCKET_IFNAME"] == "=lo"
    assert "NCCL_SOCKET_IFNAME" not in nccl_environment(132, trusts_network=True, given={})
    given = {"NCCL_MAX_CTAS": "8", "NCCL_SOCKET_IFNAME": "eth1"}
    wanted = nccl_environment(132, trusts_network=False, given=given)
    assert set(wanted) == {"CUDA_DEVICE_MAX_CONNECTIONS"}


# -- whether --------------------------------------------------------------------------------------


@pytest.fixture
def cupy(monkeypatch):
    """A cupy that notes its calls, and a torch that sees a GPU."""
    made, calls = modules()
    for name, module in made.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device", lambda device: contextlib.nullcontext())
    monkeypatch.setattr(
        "torch.cuda.get_device_properties",
        lambda device: types.SimpleNamespace(multi_processor_count=132),
    )
    for name in ("NCCL_MAX_CTAS", "CUDA_DEVICE_MAX_CONNECTIONS", "NCCL_SOCKET_IFNAME"):
        monkeypatch.setenv(name, "")  # so that it is put back afterwards
        monkeypatch.delenv(name)
    return types.SimpleNamespace(modules=made, calls=calls)


def test_this_machine_has_no_cupy_and_is_told_what_to_install():
    if "cupy" in sys.modules:
        pytest.skip("there is one")
    assert nccl_problem() == "cupy is not installed (pip install 'galerne[gpu]')"
    with pytest.raises(NcclUnavailableError, match="cupy is not installed"):
        NcclProcess().runtime()


def test_the_parts_that_are_missing_are_named(cupy, monkeypatch):
    assert nccl_problem() == ""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert nccl_problem() == "torch finds no GPU"
    cupy.modules["cupy.cuda.nccl"].available = False
    assert "nvidia-nccl-cu13" in nccl_problem()
    monkeypatch.setitem(sys.modules, "cupy.cuda.nccl", None)  # as where its library is missing
    assert "cupy has no NCCL" in nccl_problem()


# -- how cupy is called ---------------------------------------------------------------------------


def stream(address):
    made = _Stream.__new__(_Stream)
    made.address = address
    return made


def test_ids_are_bytes_for_us_and_signed_numbers_for_cupy(cupy):
    port = CupyPort(0, trusts_network=False)
    unique_id = port.unique_id()
    assert len(unique_id) == 128
    port.join(2, unique_id, 1)
    assert cupy.calls == [("init", 2, tuple(range(-64, 64)), 1)]
    with pytest.raises(NcclFaultError, match="an id of 3 bytes"):
        port.join(2, b"abc", 1)


def test_rows_are_sent_as_bytes_with_cupys_order_of_arguments_in_one_group(cupy):
    port = CupyPort(0, trusts_network=False)
    end = port.join(2, port.unique_id(), 0)
    del cupy.calls[:]
    with port.group():
        end.send(1000, 64, 1, stream(7))
        end.receive(2000, 32, 1, stream(8))
    end.abort()
    assert cupy.calls == [
        ("groupStart",),
        ("send", 1000, 64, 1, 1, 7),
        ("recv", 2000, 32, 1, 1, 8),
        ("groupEnd",),
        ("abort",),
    ]


def test_all_that_cupy_raises_is_a_fault_of_nccl_and_a_group_ends_in_any_case(cupy):
    port = CupyPort(0, trusts_network=False)
    end = port.join(2, port.unique_id(), 0)
    with pytest.raises(NcclFaultError, match="KeyError: 6"):
        end.check()
    with pytest.raises(NcclFaultError, match="UNHANDLED_CUDA_ERROR"), port.group():
        cupy.calls.append(("fail",))
    with pytest.raises(ZeroDivisionError), port.group():
        _ = 1 / 0
    assert cupy.calls[-1] == ("groupEnd",)


def test_the_environment_is_set_before_nccl_reads_it(cupy, monkeypatch):
    import os

    monkeypatch.setattr("torch.cuda.current_device", lambda: 0)
    port = open_port(trusts_network=False)
    assert port.device == torch.device("cuda", 0)
    assert os.environ["NCCL_MAX_CTAS"] == "4"
    assert os.environ["NCCL_SOCKET_IFNAME"] == "=lo"
