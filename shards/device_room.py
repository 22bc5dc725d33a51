"""Room on a GPU for what comes and goes: routed experts and adapters. What does not fit is refused.

Everything else there was planned for at the start; a torch out of memory would end the process.
"""

from __future__ import annotations

import weakref
from typing import Protocol

from galerne.errors import GalerneError
from galerne.units import size_text


class DeviceFullError(GalerneError):
    """Something to be loaded does not fit beside what is there."""

    status = "FAILED_PRECONDITION"

    def __init__(self, what: str, needed_bytes: int, free_bytes: int) -> None:
        super().__init__(what, needed_bytes, free_bytes)
        self.what, self.needed_bytes, self.free_bytes = what, needed_bytes, free_bytes

    def __str__(self) -> str:
        needed, free = size_text(self.needed_bytes), size_text(max(self.free_bytes, 0))
        return (
            f"{self.what} takes {needed} of the GPU, which has {free} free for it: unload another "
            f"adapter, or serve with a smaller --kv-memory"
        )


class Holder(Protocol):
    """Has something there."""

    def device_bytes(self) -> float:
        """What torch's allocator takes for it now."""
        ...


class DeviceRoom:
    """Whoever holds something is asked how much it is now: there is nothing to give back.

    Two that load at the same moment are not kept apart.
    """

    def __init__(self, num_bytes: int | None) -> None:
        """None: without a limit, which is for host memory."""
        self._num_bytes = num_bytes
        self._holders: weakref.WeakSet[Holder] = weakref.WeakSet()

    def add_holder(self, holder: Holder) -> None:
        """Count what it has, as long as it lives."""
        self._holders.add(holder)

    @property
    def free_bytes(self) -> float | None:
        """What may still be loaded; None: there is no limit."""
        if self._num_bytes is None:
            return None
        return self._num_bytes - sum(holder.device_bytes() for holder in list(self._holders))

    def check(self, what: str, needed_bytes: float) -> None:
        """Before something is loaded.

        Raises:
            DeviceFullError: It does not fit.
        """
        free = self.free_bytes
        if free is not None and needed_bytes > free:
            raise DeviceFullError(what, int(needed_bytes), int(free))
