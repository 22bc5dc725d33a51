"""What a deployment keeps in Ray's directory of this session, on this node; it goes with that."""

from __future__ import annotations

import shutil
from pathlib import Path


def session_directory() -> Path:
    """Ray's directory of this session, on this node. Private API: there is no public way."""
    import ray  # late: it reads its environment when imported

    return Path(ray._private.worker._global_node.get_session_dir_path())


def accounts_directory(app_name: str) -> Path:
    """Where the frontends of a deployment, which are on one host, share their keys' accounts."""
    return session_directory() / f"galerne-accounts-{app_name}"


def remove_accounts(app_name: str) -> None:
    """Of a deployment that has ended, whose parts were beside its frontends."""
    shutil.rmtree(accounts_directory(app_name), ignore_errors=True)
