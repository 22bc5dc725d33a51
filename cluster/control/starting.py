"""How far a deployment has come with its start."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class StartReport:
    """How far the parts have come, for the one who waits."""

    progress: dict[str, tuple[str, int, int]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    ready: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """In words; those that are ready are counted only."""
        told = [f"{part} failed: {reason}" for part, reason in sorted(self.failures.items())]
        for part, (what, done, of) in sorted(self.progress.items()):
            if part not in self.ready and part not in self.failures:
                told.append(f"{part}: {what} {done} of {of}")
        return "; ".join([*told, f"{len(self.ready)} part(s) ready"])
