"""A module that runs in a process of its own: one JSON command a line, one answer each."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


class JsonProgram:
    """The program as a child, and its answers. Its first answer says that it has started."""

    def __init__(self, module, environment=None, **options):
        paths = os.pathsep.join(str(ROOT / part) for part in (".", "proto", "tests"))
        self._child = subprocess.Popen(
            [sys.executable, "-P", "-m", module, json.dumps(options)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **(environment or {}), "PYTHONPATH": paths},
            text=True,
        )
        self.pid = self._child.pid
        self.started = self._answer()

    def ask(self, do, **arguments):
        self._child.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
        self._child.stdin.flush()
        return self._answer()

    def stop(self):
        try:
            self._child.stdin.close()
            return self._child.wait(60)
        finally:
            self._child.kill()
            self._child.wait()
            self._child.stdout.close()

    def _answer(self):
        line = self._child.stdout.readline()
        assert line, "the program has ended"
        answer = json.loads(line)
        assert "error" not in answer, answer["error"]
        return answer


def run_program(serve):
    """In the child: ``serve(options, answer)``; whatever else is printed goes to stderr."""
    options = json.loads(sys.argv[1])
    answers, sys.stdout = sys.stdout, sys.stderr

    def answer(**fields):
        answers.write(json.dumps(fields) + "\n")
        answers.flush()

    try:
        serve(options, answer)
    except Exception as error:
        answer(error=f"{type(error).__name__}: {error}")
        raise


def commands():
    """In the child: commands until the input ends."""
    return map(json.loads, sys.stdin)
