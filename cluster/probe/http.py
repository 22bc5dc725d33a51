"""Asks a server by HTTP whether it lives: the quickest way, for it needs no library."""

from __future__ import annotations

import contextlib
import http.client
import json
import ssl

from cluster.tls_files import tls_of_environment

_MAX_BYTES = 65536  # of an answer that are read


def get(url: str, path: str, timeout_s: float) -> tuple[int, str]:
    """Status and text of a GET; 0 and why, where there is no answer.

    As kubelet's own probes: who answers https is believed, unless GALERNE_TLS_CA names the CA.
    """
    scheme, _, address = url.rpartition("://")
    try:
        if scheme == "https":
            connection: http.client.HTTPConnection = http.client.HTTPSConnection(
                address, timeout=timeout_s, context=_tls_context()
            )
        else:
            connection = http.client.HTTPConnection(address, timeout=timeout_s)
        with contextlib.closing(connection):
            connection.request("GET", path, headers={"Connection": "close"})
            answer = connection.getresponse()
            return answer.status, answer.read(_MAX_BYTES).decode(errors="replace")
    except (OSError, http.client.HTTPException, ValueError) as error:
        return 0, str(error) or type(error).__name__


def _tls_context() -> ssl.SSLContext:
    files = tls_of_environment()
    context = ssl.create_default_context(cafile=files["ca"] or None)
    if not files["ca"]:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if files["cert"]:
        context.load_cert_chain(files["cert"], files["key"] or None)
    return context


def reason_of(text: str) -> str:
    """What the body of a refused ``/ready`` says; the body itself if it is another one."""
    try:
        body = json.loads(text)
        return str(body.get("reason") or body["error"]["message"])
    except (ValueError, KeyError, TypeError, AttributeError):
        return " ".join(text.split())[:200]
