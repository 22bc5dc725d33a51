"""Virtual time: what is planned happens in order of time, and is written down."""

import hashlib
import heapq
from collections.abc import Callable


class World:
    """Implements ``Clock``; moves only while somebody waits."""

    def __init__(self):
        self.time_s = 1000.0
        self.trace = []
        self._planned = []
        self._num_planned = 0

    def now_s(self):
        return self.time_s

    def at(self, time_s, action: Callable[[], None]):
        """Plan an action; equal times keep the order in which they were planned."""
        heapq.heappush(self._planned, (max(time_s, self.time_s), self._num_planned, action))
        self._num_planned += 1

    def after(self, delay_s, action: Callable[[], None]):
        self.at(self.time_s + delay_s, action)

    def run_until(self, end_s, is_due: Callable[[], object] = bool):
        """Let things happen up to ``end_s``, or until something is due."""
        while not is_due():
            if not self._planned or self._planned[0][0] > end_s:
                self.time_s = max(self.time_s, end_s)
                return
            time_s, _, action = heapq.heappop(self._planned)
            self.time_s = max(self.time_s, time_s)
            action()

    def note(self, *what):
        self.trace.append((self.time_s, *what))

    def fingerprint(self):
        """Equal for equal histories, in any process."""
        return hashlib.blake2b(repr(self.trace).encode(), digest_size=16).hexdigest()

    def history(self, num_lines=None):
        """The last lines of what happened, for people; None: all."""
        last = self.trace if num_lines is None else self.trace[-num_lines:]
        return "\n".join(f"{time_s:12.6f}  " + " ".join(map(str, what)) for time_s, *what in last)
