"""The controller's channels to parts: what becomes of them, and of certificates that are away."""

from pathlib import Path

import grpc
import pytest

from cluster.control.part_client import PartClients, PartFailedError
from cluster.ports import free_ports
from galerne.internal_tls import InternalTls
from helpers.waiting import until

NOBODY = f"127.0.0.1:{free_ports(1)[0]}"


async def test_files_that_are_away_fail_a_call_and_no_loop_of_the_controller():
    """The loops bear a part that fails; whatever else they meet ends them, and the controller."""
    gone = Path("/nowhere")
    tls = InternalTls(cert=gone / "c.pem", key=gone / "k.pem", ca=gone / "ca.pem")
    clients = PartClients("token", lambda _part: NOBODY, tls)
    with pytest.raises(PartFailedError, match="internal_tls"):
        await clients.state_of("gateway-0", 1.0)
    with pytest.raises(PartFailedError, match="internal_tls"):
        await clients.load_of("shard-0", 1.0)
    await clients.close()


async def test_a_part_that_has_ended_leaves_no_channel_behind():
    """Names never come again: each change of topology would leave as many as it ends parts."""
    addresses = {f"shard-{i}": NOBODY for i in range(4)}
    clients = PartClients("token", addresses.get)
    for part in addresses:
        with pytest.raises(PartFailedError):
            await clients.load_of(part, 0.2)
    opened = [known.channel for known in clients._channels.values()]
    addresses.clear()
    addresses["shard-4"] = NOBODY
    with pytest.raises(PartFailedError):
        await clients.load_of("shard-4", 0.2)
    assert list(clients._channels) == ["shard-4"]
    closed = grpc.ChannelConnectivity.SHUTDOWN
    await until(lambda: all(channel.get_state() is closed for channel in opened))
    assert not clients._closing
    await clients.close()
