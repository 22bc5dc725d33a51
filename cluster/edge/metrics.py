"""Metrics of the edge's keeper; HAProxy's own are at its metrics port."""

from __future__ import annotations

from galerne.metric_set import MetricSet


class EdgeMetrics:
    """In a registry of their own."""

    def __init__(self) -> None:
        made = self.set = MetricSet(has_process=True)
        self.up = made.gauge("galerne_tls_edge_up", "Whether the TLS edge answers.")
        self.restarts = made.counter(
            "galerne_tls_edge_restarts_total", "Ends of the TLS edge that nobody asked for."
        )
        self.looks = made.counter(
            "galerne_tls_certificate_looks_total", "Looks for changed certificates."
        )
        self.changes = made.counter(
            "galerne_tls_certificate_changes_total",
            "Changes of certificates, by whether the new ones were taken or refused.",
            "outcome",
        )
        for outcome in ("taken", "refused"):  # from zero on: an alert watches for the first
            self.changes.labels(outcome)
        self.expires = made.gauge(
            "galerne_tls_certificate_expires_timestamp_seconds",
            "When the certificate for clients expires.",
        )

    def text(self) -> bytes:
        """As Prometheus reads them."""
        return self.set.text()
