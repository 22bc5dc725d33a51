"""A process of a measurement, which answers lines of JSON with lines of JSON."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from galerne.errors import GalerneError
from shards.cores import PASSIVE_POOLS

START_S = 120.0  # to load what it serves
_ANSWER_S = 60.0
_END_S = 60.0  # a server ends what it has started


class MeasureProcessError(GalerneError):
    """A process of a measurement did not start, or ended."""

    def __init__(self, process: str, problem: str) -> None:
        super().__init__(process, problem)
        self.process = process
        self.problem = problem

    def __str__(self) -> str:
        return f"{self.process}: {self.problem}"


class LineProcess:
    """``python -m MODULE``: its first line holds its settings, the next ones are questions."""

    def __init__(
        self,
        name: str,
        module: str,
        settings: Mapping[str, Any],
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """``environment``: variables besides ours."""
        self._name = name
        # As launch.py sets the pools of an actor; the modules are found where ours were.
        env = os.environ | PASSIVE_POOLS | {"OMP_NUM_THREADS": "1"}
        env["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
        env |= environment or {}
        self._process = subprocess.Popen(
            [sys.executable, "-m", module],
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._write(settings)

    def first_words(self) -> dict[str, Any]:
        """What it says when it is ready.

        Raises:
            MeasureProcessError: It has ended, or is not ready in time.
        """
        return self._read(START_S)

    def ask(self, question: Mapping[str, Any]) -> dict[str, Any]:
        """Its answer.

        Raises:
            MeasureProcessError: It has ended, or says nothing in time.
        """
        self._write(question)
        return self._read(_ANSWER_S)

    def close(self) -> None:
        """End it."""
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):  # a question that nobody has read
                    stream.close()
        try:
            self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _write(self, what: Mapping[str, Any]) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(what) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise MeasureProcessError(self._name, "ended") from None

    def _read(self, timeout_s: float) -> dict[str, Any]:
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], timeout_s)
        if not ready:
            raise MeasureProcessError(self._name, f"said nothing for {timeout_s:g} s")
        line = self._process.stdout.readline()
        if not line:
            raise MeasureProcessError(self._name, "ended")
        told: dict[str, Any] = json.loads(line)
        return told


def say(what: Mapping[str, Any]) -> None:
    """From such a process to whoever started it."""
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()
