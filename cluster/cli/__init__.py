"""The ``galerne`` command."""

from __future__ import annotations

import errno
import sys

_OF_A_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)


def main() -> None:
    """Entry point: errors of ours, and what a disk refuses, are one line and exit code 1."""
    if sys.argv[1:2] == ["probe"]:  # often, and with a deadline: without what the others import
        from cluster.probe.command import main as probe

        sys.exit(probe(sys.argv[2:]))
    from rich.console import Console

    from cluster.cli.app import app
    from galerne.errors import GalerneError

    try:
        app()
    except (GalerneError, OSError) as error:
        if isinstance(error, OSError) and error.filename is None and error.errno not in _OF_A_DISK:
            raise
        console = Console(stderr=True)
        console.print("error", style="bold red", end=" ")
        console.print(str(error), markup=False, highlight=False, soft_wrap=True)
        sys.exit(1)
