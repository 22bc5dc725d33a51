"""Damages copies of the fixture checkpoints and prints what a person is told of each.

make defects
"""

import shutil
import tempfile
from pathlib import Path

from galerne.errors import CheckpointError
from helpers.corrupt import CORRUPTIONS
from helpers.fixture_models import FIXTURES
from shards.checkpoint.open import open_checkpoint


def main():
    for corruption in CORRUPTIONS:
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory) / corruption.fixture
            shutil.copytree(FIXTURES / corruption.fixture, path)
            corruption.damage(path)
            try:
                open_checkpoint(path)
                said = "ACCEPTED"
            except CheckpointError as error:
                said = str(error).replace(f"{directory}/", "")
        print(f"| {corruption.name} | {said} |")


if __name__ == "__main__":
    main()
