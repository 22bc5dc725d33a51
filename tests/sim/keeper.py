"""The controller's part that keeps experts alive, with its own judgement, on virtual time."""

from functools import partial

from cluster.control.adoption import plan_adoption
from cluster.control.health import HealthBook, HealthConfig
from cluster.control.keeper import next_adoption

TURN_S = 0.2
MAX_LOAD_S = 0.6


class SimKeeper:
    """``ExpertKeeper`` without its wire: has survivors adopt what lost shards held."""

    def __init__(self, cluster, member):
        """``member()`` serves now."""
        self._cluster, self._world, self._member = cluster, cluster.world, member
        self._config = HealthConfig()
        self._health = HealthBook(self._config)
        self._adopted = {}  # by (shard, its life), as far as is known
        self._asked = set()
        self._whole_since_s = self._world.time_s
        self._turn()

    def _turn(self):
        now_s, topology = self._world.time_s, self._member().topology
        self._health.observe(topology.gateways[0], self._member().exchange.links, now_s)
        lost = self._health.lost(now_s)
        if lost:
            self._whole_since_s = now_s
        is_settled = now_s - self._whole_since_s >= self._config.release_s
        if lost or self._adopted:
            wanted = plan_adoption(topology.placement, topology.shards, lost)
            for name, shard in self._cluster.shards_of(topology).items():
                if name in wanted:
                    self._ask(shard, wanted[name], is_settled)
        self._world.after(TURN_S, self._turn)

    def _ask(self, shard, wanted, is_settled):
        key = (shard.id, shard.life)
        held = self._adopted.get(key, frozenset())
        target = next_adoption(held, wanted, is_settled=is_settled)
        if target is None or key in self._asked or not shard.is_responsive:
            return
        self._asked.add(key)
        load_s = self._cluster.network.rng.random() * MAX_LOAD_S
        self._world.after(load_s, partial(self._adopt, shard, key, target))

    def _adopt(self, shard, key, experts):
        self._asked.remove(key)
        if shard.is_responsive and shard.life == key[1]:
            shard.adopt(experts)
            self._adopted[key] = experts
