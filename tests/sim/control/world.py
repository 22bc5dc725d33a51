"""Everything there is in one run."""

import hashlib
import os
import random
from collections import Counter

from sim.control.laws import Laws
from sim.control.loop import START_S, Process, VirtualLoop
from sim.control.network import Network

TAIL_LINES = int(os.environ.get("GALERNE_SIM_TAIL", "60"))


class World:
    """One run's loop, network, processes and history."""

    def __init__(self, seed, schedule):
        self.seed, self.schedule = seed, schedule
        self.rng = random.Random(f"{seed} world")
        self.loop = VirtualLoop(self.rng)
        self.trace = []
        self.seen = Counter()
        self.inputs, self.first = schedule.inputs, schedule.first
        self.failing_starts = schedule.failing_starts
        self.processes = []
        self.cut_off = []  # of them: their node is gone, and does not know
        self.controller = self.driver = self.network = None
        self.is_over = False
        self.laws = Laws(self)

    def begin(self):
        """On the loop."""
        self.network = Network(self.loop, self.rng, self.note)

    def create_process(self, name):
        process = Process(self.loop, name, len(self.processes) + 1)
        self.processes.append(process)
        return process

    @property
    def num_processes(self):
        return len(self.processes)

    def live_parts(self, prefix=""):
        """What Ray knows to run, and what has loaded."""
        parts = (a.now for name, a in sorted(self.driver.actors.items()) if name.startswith(prefix))
        return [part for part in parts if part.process.is_alive and part.is_serving]

    def note(self, *what):
        self.trace.append((round(self.loop.time() - START_S, 6), *map(str, what)))

    def fingerprint(self):
        return hashlib.blake2b(repr(self.trace).encode(), digest_size=16).hexdigest()

    def tail(self):
        """The end of the history, for people."""
        return "\n".join(f"{t:11.4f}  {' '.join(what)}" for t, *what in self.trace[-TAIL_LINES:])
