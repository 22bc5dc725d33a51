"""Processes of a server, of which any may end while a test looks at it."""

from contextlib import suppress
from pathlib import Path

import psutil


def family(pid):
    """It, and all below it."""
    parent = psutil.Process(pid)
    return [parent, *parent.children(recursive=True)]


def named(pid, start):
    """Those below a process whose name begins so: an actor of Ray is called as what it does now."""
    found = []
    for process in family(pid)[1:]:
        with suppress(psutil.NoSuchProcess):
            if process.name().startswith(start):
                found.append(process)
    return found


def listening(processes):
    """Name, address and port of every TCP socket of theirs that takes connections."""
    found = set()
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            name = process.name()
            for connection in process.net_connections("tcp"):
                if connection.status == psutil.CONN_LISTEN:
                    found.add((name, *connection.laddr))
    return found


def haproxies(directory):
    """Those whose configuration lies below a directory, wherever they hang."""
    found = ((process, haproxy_config(process)) for process in psutil.process_iter())
    return [process for process, path in found if path is not None and directory in path.parents]


def haproxy_config(process):
    """The file that an HAProxy runs on; None for any other process."""
    try:
        line = process.cmdline()
    except psutil.Error:
        return None
    return next((Path(part) for part in line if part.endswith("/haproxy.cfg")), None)
