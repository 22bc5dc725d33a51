"""Whether NCCL can be used, with whom, and how cupy is called: without a GPU."""

import contextlib
import gc
import os
import sys
import threading
import types

import pytest
import torch

from cluster import launch
from galerne.hello import NcclOffer
from helpers.fake_cupy import ID, FakeCupy
from shards.nccl import availability
from shards.nccl.availability import (
    MAX_LINKS,
    NcclUnavailableError,
    host_name,
    max_links,
    nccl_environment,
    nccl_problem,
    queues_environment,
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
    # An A100's share is 3, of which NCCL would make 4 channels.
    assert nccl_environment(108, trusts_network=True, given={})["NCCL_MAX_CTAS"] == "2"
    assert int(queues_environment({})["CUDA_DEVICE_MAX_CONNECTIONS"]) > 2 * MAX_LINKS


def test_without_trust_nccl_listens_on_loopback_alone_and_what_is_given_stays():
    assert nccl_environment(132, trusts_network=False, given={})["NCCL_SOCKET_IFNAME"] == "=lo"
    assert "NCCL_SOCKET_IFNAME" not in nccl_environment(132, trusts_network=True, given={})
    given = {"NCCL_MAX_CTAS": "8", "NCCL_SOCKET_IFNAME": "eth1"}
    assert nccl_environment(132, trusts_network=False, given=given) == {}


# -- whether --------------------------------------------------------------------------------------


@pytest.fixture
def cupy(monkeypatch):
    """A cupy that notes its calls, and a torch that sees a GPU."""
    made = FakeCupy()
    for name, module in made.modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device", lambda device: contextlib.nullcontext())
    monkeypatch.setattr(
        "torch.cuda.get_device_properties",
        lambda device: types.SimpleNamespace(multi_processor_count=132),
    )
    for name in ("NCCL_MAX_CTAS", "NCCL_SOCKET_IFNAME"):
        monkeypatch.setenv(name, "")  # so that it is put back afterwards
        monkeypatch.delenv(name)
    return made


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


def test_a_cupy_that_does_not_load_is_not_taken_for_none(cupy, monkeypatch, tmp_path):
    """Cupy raises an ImportError without a name, of many lines, from the one that says why."""
    lines = (
        "try:",
        "    raise ImportError('libcurand.so.10: cannot open shared object file')",
        "except ImportError as error:",
        "    raise ImportError('Failed to import CuPy. Check the Installation Guide') from error",
    )
    (tmp_path / "cupy.py").write_text("\n".join(lines))
    monkeypatch.delitem(sys.modules, "cupy")
    monkeypatch.syspath_prepend(tmp_path)
    expected = "cupy cannot be loaded (libcurand.so.10: cannot open shared object file)"
    assert nccl_problem() == expected


# -- how cupy is called ---------------------------------------------------------------------------


def stream(address):
    made = _Stream.__new__(_Stream)
    made.address = address
    return made


@pytest.fixture
def port(cupy):
    return CupyPort(0, trusts_network=False)


@pytest.fixture
def end(port, cupy):
    made = port.join(2, port.unique_id(), 0)
    del cupy.calls[:]
    yield made
    made.abort()


def test_ids_are_the_bytes_that_cupy_gives_and_takes(cupy, port):
    unique_id = port.unique_id()
    assert unique_id == ID
    end = port.join(2, unique_id, 1)
    assert cupy.calls == [("unique_id",), ("init", 2, ID, 1)]
    with pytest.raises(NcclFaultError, match="an id of 3 bytes"):
        port.join(2, b"abc", 1)
    end.abort()


def test_rows_are_sent_as_bytes_with_cupys_order_of_arguments_in_one_group(cupy, port, end):
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


def test_each_call_is_on_our_device_whatever_thread_makes_it(cupy, port, end):
    def use():
        with port.group():
            end.send(1000, 64, 1, stream(7))
        end.check()

    thread = threading.Thread(target=use)
    thread.start()
    thread.join(60)
    assert [name for name, *_ in cupy.calls] == ["groupStart", "send", "groupEnd", "check"]


@pytest.mark.parametrize("name", ["unique_id", "init", "groupStart", "send", "groupEnd", "check"])
def test_all_that_cupy_raises_is_a_fault_of_nccl(cupy, port, end, name):
    def use():
        port.join(2, port.unique_id(), 0)
        with port.group():
            end.send(1000, 64, 1, stream(7))
        end.check()

    cupy.results[name] = 1
    with pytest.raises(NcclFaultError, match="UNHANDLED_CUDA_ERROR"):
        use()
    cupy.results.clear()
    assert cupy.num_groups == 0


@pytest.mark.parametrize(
    ("result", "said"),
    [(6, "FakeNcclError: NCCL_ERROR_REMOTE_ERROR"), (7, "NCCL's result 7, for which cupy has no")],
)
def test_what_nccl_says_is_named_as_far_as_cupy_has_a_name(cupy, end, result, said):
    cupy.results["check"] = result
    with pytest.raises(NcclFaultError, match=said):
        end.check()


def test_a_device_that_cannot_be_made_current_is_a_fault_of_nccl(end, monkeypatch):
    def fail(device):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    with monkeypatch.context() as patched:
        patched.setattr("torch.cuda.device", fail)
        with pytest.raises(NcclFaultError, match="illegal memory access"):
            end.check()


def test_a_group_ends_in_any_case(cupy, port):
    with pytest.raises(ZeroDivisionError), port.group():
        _ = 1 / 0
    assert cupy.calls[-1] == ("groupEnd",)


def test_a_stream_is_a_new_one_that_waits_for_no_other_and_ends_with_its_last_use(
    cupy, port, monkeypatch
):
    """Torch's own come from a pool, and one of torch's for an address does not keep it."""
    seen = []
    monkeypatch.setattr(
        "torch.cuda.ExternalStream", lambda address, device: seen.append((address, device))
    )
    streams = [port.stream(), port.stream()]
    assert cupy.calls == [("stream", True)] * 2
    assert [each.address for each in streams] == [1000, 1001]
    assert seen == [(1000, port.device), (1001, port.device)]
    del streams[0]
    gc.collect()
    assert cupy.calls[2:] == [("end of stream", 1000)]
    cupy.results["stream"] = 1
    with pytest.raises(NcclFaultError):
        port.stream()


def test_an_aborted_communicator_calls_nccl_no_more_and_nobody_waits_for_its_end(cupy, port):
    end = port.join(2, port.unique_id(), 0)
    del cupy.calls[:]
    end.abort()
    end.abort()
    with pytest.raises(NcclFaultError, match="INVALID_ARGUMENT"):
        end.check()
    del end
    gc.collect()
    assert cupy.calls == [("abort",), ("check",)]


def test_the_environment_is_set_before_nccl_reads_it(cupy, monkeypatch):
    monkeypatch.setattr("torch.cuda.current_device", lambda: 0)
    port = open_port(trusts_network=False)
    assert port.device == torch.device("cuda", 0)
    assert os.environ["NCCL_MAX_CTAS"] == "4"
    assert os.environ["NCCL_SOCKET_IFNAME"] == "=lo"


# -- how many links -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environment", "limit"),
    [
        ({}, 3),
        ({"CUDA_DEVICE_MAX_CONNECTIONS": "32"}, MAX_LINKS),
        ({"CUDA_DEVICE_MAX_CONNECTIONS": "64"}, MAX_LINKS),
        ({"CUDA_DEVICE_MAX_CONNECTIONS": "1"}, 1),
        ({"CUDA_DEVICE_MAX_CONNECTIONS": "many"}, 3),
    ],
)
def test_a_process_has_as_many_links_as_its_cuda_has_queues_for(environment, limit):
    assert max_links(environment) == limit


def test_an_actor_has_the_queues_before_it_loads_cuda_and_what_is_given_stays(monkeypatch):
    monkeypatch.delenv("CUDA_DEVICE_MAX_CONNECTIONS", raising=False)
    assert max_links(launch._environment(1)) == MAX_LINKS
    monkeypatch.setenv("CUDA_DEVICE_MAX_CONNECTIONS", "16")
    assert launch._environment(1)["CUDA_DEVICE_MAX_CONNECTIONS"] == "16"
