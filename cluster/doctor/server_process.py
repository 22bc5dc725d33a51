"""A whole private server in a process of its own, for the time of a measurement.

    python -m cluster.doctor.server_process < LINES

The first line on stdin is its settings as JSON, as a configuration file has them; it prints its
gRPC address, and ends with its input.
"""

from __future__ import annotations

import json
import os
import sys

from cluster.config import load_config
from cluster.server import Server
from cluster.shutdown import Shutdown


def main() -> None:
    """Serve until stdin ends."""
    asked = json.loads(sys.stdin.readline())
    told = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what Ray prints is no answer
    shutdown = Shutdown()
    shutdown.install()
    with Server(load_config(None, asked), shutdown) as server:
        server.start(lambda _: None, lambda _: None)
        assert server.ingress is not None
        told.write(json.dumps({"address": server.ingress.grpc_address}) + "\n")
        told.flush()
        sys.stdin.read()


if __name__ == "__main__":
    main()
