"""A shard of the tiny checkpoint in a process of its own."""

import sys

from helpers.part_process import PartProcess, serve_until_input_ends


class ShardProcess(PartProcess):
    """Serves ``shard-INDEX`` of ``COUNT``, every expert with ``replicas`` copies."""

    def __init__(self, index, count, replicas=1):
        super().__init__(__file__, index, count, replicas)


def main():
    from helpers.cluster import Shards
    from helpers.fixture_models import checkpoint, topology

    index, count, replicas = map(int, sys.argv[1:])
    shape = topology(checkpoint().config, [f"shard-{i}" for i in range(count)], replicas=replicas)
    shards = Shards(shape, only=(shape.shards[index],))
    serve_until_input_ends(shards.address_of(shape.shards[index]))


if __name__ == "__main__":
    main()
