"""A Dockerfile as data, as far as ours needs it."""

import json
import re
import shlex
from dataclasses import dataclass, field


@dataclass
class Stage:
    """From one FROM to the next."""

    base: str
    name: str
    steps: list = field(default_factory=list)  # (instruction, text), continuation lines joined

    def texts(self, instruction):
        return [text for kind, text in self.steps if kind == instruction]

    @property
    def copies(self):
        """(sources, destination) of what comes from the build's context."""
        words = [text.split() for text in self.texts("COPY") if not text.startswith("--from")]
        return [(sources, destination) for *sources, destination in words]

    @property
    def environment(self):
        pairs = [word for text in self.texts("ENV") for word in shlex.split(text)]
        return dict(pair.split("=", 1) for pair in pairs)

    def command(self, instruction):
        """Words of the last ENTRYPOINT or CMD, in its JSON form."""
        return json.loads(self.texts(instruction)[-1])


def read_dockerfile(path, **arguments):
    """Stages by name; ``arguments`` as of --build-arg."""
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    text = re.sub(r"\\\n\s*", "", "\n".join(lines))
    stages, known = {}, {}
    for line in filter(str.strip, text.splitlines()):
        instruction, _, rest = line.partition(" ")
        if instruction == "ARG":
            name, _, value = rest.partition("=")
            known[name] = arguments.get(name, value)
            continue
        rest = re.sub(r"\$\{(\w+)\}", lambda found: known.get(found[1], found[0]), rest)
        if instruction == "FROM":
            base, _, name = rest.partition(" AS ")
            stages[name] = Stage(base, name)
            stage = stages[name]
        else:
            stage.steps.append((instruction, rest.strip()))
    return stages


def lineage(stages, name):
    """The stages that one is built on, the first one first, and itself."""
    found = []
    while name in stages:
        found.insert(0, stages[name])
        name = stages[name].base
    return found
