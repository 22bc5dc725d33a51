"""Metrics of the edge's keeper; HAProxy's own are at its metrics port."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest


class EdgeMetrics:
    """In a registry of their own."""

    def __init__(self) -> None:
        registry = self._registry = CollectorRegistry()
        self.up = Gauge("galerne_tls_edge_up", "Whether the TLS edge answers.", registry=registry)
        self.restarts = Counter(
            "galerne_tls_edge_restarts",
            "Ends of the TLS edge that nobody asked for.",
            registry=registry,
        )
        self.looks = Counter(
            "galerne_tls_certificate_looks", "Looks for changed certificates.", registry=registry
        )
        self.changes = Counter(
            "galerne_tls_certificate_changes",
            "Changes of certificates, by whether the new ones were taken or refused.",
            ["outcome"],
            registry=registry,
        )
        self.expires = Gauge(
            "galerne_tls_certificate_expires_timestamp_seconds",
            "When the certificate for clients expires.",
            registry=registry,
        )

    def text(self) -> bytes:
        """As Prometheus reads them."""
        return generate_latest(self._registry)
