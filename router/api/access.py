"""Who calls, what that allows, and what it costs. The caller is known to the call's task."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextvars import ContextVar

from galerne.clock import Clock
from galerne.errors import UnauthenticatedError
from router.api.audit import AuditLog
from router.api.errors import ForbiddenError
from router.api.key_limits import Cells, KeyAccount, KeyLimiter
from router.api.keys import ANYONE, ApiKeys, Client
from router.tracing.incoming import note_incoming

# RPCs that change the cluster, or make its controller compute.
ADMIN_RPCS = frozenset(
    {"SetTopology", "Drain", "WhatIf", "LoadAdapter", "UnloadAdapter", "SetLogLevel"}
)

_MAX_PEER_CHARS = 100
_caller: ContextVar[tuple[Client, str]] = ContextVar("caller", default=(ANYONE, ""))


def current_client() -> Client:
    """Whose call the current task answers; anyone, where nothing was checked."""
    return _caller.get()[0]


class Lease:
    """One request of a client, from admission to its end."""

    def __init__(self, client: Client, account: KeyAccount, audit: AuditLog, api: str) -> None:
        self._client, self._account, self._audit, self._api = client, account, audit, api
        self._num_prompt = self._num_answer = 0

    def charge_prompt(self, num_tokens: int) -> None:
        """The prompt was admitted."""
        self._num_prompt += num_tokens
        self._account.charge(num_tokens)

    def charge_answer(self, num_tokens: int) -> None:
        """Tokens were generated."""
        self._num_answer += num_tokens
        self._account.charge(num_tokens)

    def release(self, outcome: str) -> None:
        """The request has ended, by a finish reason or a status."""
        self._account.release()
        sizes = self._num_prompt, self._num_answer
        self._audit.request(self._client.name, self._api, outcome, *sizes)


class Access:
    """The door of one frontend."""

    def __init__(
        self,
        keys: ApiKeys,
        audit: AuditLog,
        clock: Clock,
        cells_of: Callable[[bytes], Cells] | None = None,
        on_refused: Callable[[str], None] = lambda reason: None,
    ) -> None:
        """Of calls with these keys.

        Args:
            keys: Who may call.
            audit: Told of what matters.
            clock: Of the limits.
            cells_of: See ``KeyLimiter``.
            on_refused: Hears why a call was not let in: one of three reasons.
        """
        self.keys = keys
        self._audit = audit
        self._on_refused = on_refused
        self._limiter = KeyLimiter(clock, cells_of)

    def enter(
        self, what: str, authorization: str | None, peer: str = "", *, as_admin: bool = False
    ) -> Client:
        """Let a call in; ``current_client`` is then the client, for the task and its children.

        Args:
            what: RPC or path, for the audit log.
            authorization: Value of the header or metadata.
            peer: Address of the client, as far as it is known.
            as_admin: The call changes the cluster.

        Raises:
            UnauthenticatedError: No key, or a wrong one.
            ForbiddenError: The key may not do that.
        """
        what, peer = _printable(what), _printable(peer)
        try:
            client = self.keys.check(authorization)
        except UnauthenticatedError:
            reason = "wrong key" if authorization else "no key"
            self._audit.refused("unknown", what, peer, reason)
            self._on_refused(reason)
            raise
        if as_admin and not self.keys.may_administer(client):
            self._audit.refused(client.name, what, peer, "not an admin key")
            self._on_refused("not an admin key")
            why = "needs an admin key"
            raise ForbiddenError(
                why if self.keys.has_admins else f"{why}, and the server was given none"
            )
        _caller.set((client, peer))
        return client

    def enter_rpc(
        self, method: str, metadata: Iterable[tuple[str, str | bytes]] | None, peer: str = ""
    ) -> Client:
        """The same for a gRPC call by its metadata; ``method`` is its last name."""
        facts = {key: _text(value) for key, value in metadata or ()}
        note_incoming(facts.items())
        peer = facts.get("x-forwarded-for", peer)
        return self.enter(method, facts.get("authorization"), peer, as_admin=method in ADMIN_RPCS)

    def lease(self, api: str) -> Lease:
        """Admit one request of the current client.

        Raises:
            KeyLimitError: A limit of its key is reached.
        """
        client = current_client()
        return Lease(client, self._limiter.admit(client), self._audit, api)

    def note_action(self, what: str, **fields: object) -> None:
        """The current client is about to change the cluster."""
        client, peer = _caller.get()
        self._audit.action(client.name, what, peer, **fields)

    def may_touch(self, owner: bytes | None) -> bool:
        """Whether the current client may end a request of ``owner``; None: nobody knows whose."""
        client = current_client()
        return self.keys.may_administer(client) or client.owner == owner


def _text(value: str | bytes) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else value


def _printable(text: str) -> str:
    """For a log: what a client has sent may be anything."""
    return "".join(c if c.isprintable() else "?" for c in text[:_MAX_PEER_CHARS])
