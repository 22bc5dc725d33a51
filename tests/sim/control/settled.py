"""Whether a cluster is as it should be when nothing goes wrong any more."""

from router.exchange.links import LinkState
from shards.residency import as_set


def problems(world):
    """What is not yet as it should be, in words."""
    controller = world.controller
    if not controller.process.is_alive or not controller.is_recovered:
        return ["the controller is away"]
    if not controller.is_idle:
        return [f"the change is {controller.conductor.stage.value}"]
    current = controller.conductor.current
    found = []
    if set(world.driver.actors) != set(current.parts):
        found.append(f"{sorted(world.driver.actors)} run, {sorted(current.parts)} are wanted")
    live = {part.name: part for part in world.live_parts()}
    for name in current.parts:
        part = live.get(name)
        if part is None:
            found.append(f"{name} is away")
        elif set(part.epochs) != {current.epoch}:
            found.append(f"{part.process} serves {list(part.epochs)}, not {current.epoch}")
        elif not controller.it._members.is_live(name):
            found.append(f"{part.process} is not heard")
        elif name in current.gateways:
            found += _of_gateway(part, current)
        else:
            found += _of_shard(part, current)
    extra = [p for p in world.processes if p.is_alive and p.name.partition("-")[0] in _KINDS]
    found += [
        f"{p} has not ended" for p in extra if p.name not in live or live[p.name].process != p
    ]
    return found


_KINDS = ("gateway", "shard")


def _of_gateway(gateway, current):
    if gateway.switch.topology != current:
        return [f"{gateway.process} has another topology of epoch {current.epoch}"]
    links = gateway.engine.experts.links.items()
    return [f"{gateway.process}: {s} is {state}" for s, state in links if state is not LinkState.UP]


def _of_shard(shard, current):
    placed = as_set(current.placement.experts_of(shard.name))
    resident = shard.bank.resident
    if resident == placed and not shard.control.adopted:
        return []
    more, fewer = len(resident - placed), len(placed - resident)
    return [f"{shard.process} holds {more} experts too many, {fewer} too few"]


def orphans(world):
    """(layer, expert) of the current topology that no live shard holds."""
    current = world.controller.conductor.current
    if not current.shard_processes:
        return set()
    held = set()
    for shard in world.live_parts("shard-"):
        if shard.name in current.shards:
            held |= shard.bank.resident
    wanted = {
        (n, e) for n, layer in enumerate(current.placement.by_layer) for e in range(len(layer))
    }
    return wanted - held
