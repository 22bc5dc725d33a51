"""Fresh calibrations of this machine, and topologies of a server as the planner's candidates."""

import tempfile
from dataclasses import asdict
from pathlib import Path

from cluster.config import load_config
from cluster.control import scaling_plan
from cluster.doctor.store import StoredCalibration, default_path, load, save
from cluster.plan import held_model
from cluster.planning.candidate import Candidate
from galerne.topology import LinkTransport, Mode
from helpers.serve_process import run_cli


class Calibrator:
    """``galerne doctor`` for one checkpoint, in a process of its own as a user runs it."""

    def __init__(self, model=None, budget_s=20.0):
        self._model = held_model(load_config(None, {"model": model}))
        self._budget_s = budget_s
        self.shape = self._model.shape

    def measure(self) -> StoredCalibration:
        """Nothing else may run meanwhile; a server that idles may."""
        with tempfile.TemporaryDirectory() as directory:
            out = Path(directory) / "calibration.json"
            flags = ("--model", self._model.path, "--budget-s", self._budget_s, "--out", out)
            flags += ("--http-port", 0, "--grpc-port", 0)
            done = run_cli("doctor", *map(str, flags), timeout=60 + 5 * self._budget_s)
            assert done.returncode == 0, done.stdout + done.stderr
            return load(out, self.shape, self._model.experts, self._model.dense)

    def keep(self):
        """Measure, and leave it where ``galerne serve`` and ``what-if`` look for it."""
        stored = self.measure()
        save(stored, default_path(stored.machine, stored.shape, stored.experts, stored.dense))


def candidate_of(info):
    """What a server's ``TopologyInfo`` says, as a candidate; all parts on this machine."""
    return Candidate(
        mode=Mode(info.mode),
        transport=LinkTransport(info.transport),
        gateways=len(info.gateways),
        shards=max(1, len(info.shards)),
        replicas=info.replicas,
        micro_batches=1,
        max_num_seqs=info.max_num_seqs,
        max_batched_tokens=info.max_batched_tokens,
    )


def wish_of(candidate):
    """Fields of ``SetTopology`` that ask for a candidate."""
    wish = asdict(scaling_plan.wish_of(candidate))
    return {name: value for name, value in wish.items() if value is not None}


def name_of(candidate):
    """In a few letters, for tables."""
    c = candidate
    where = "local" if c.transport is LinkTransport.LOCAL else f"{c.shards} {c.transport.value}"
    copies = f" x{c.replicas}" if c.replicas > 1 else ""
    return f"{where}{copies}, {c.gateways} gw, {c.max_num_seqs}/{c.max_batched_tokens}"
