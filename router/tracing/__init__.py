"""Traces: what is noted of requests while they run, and kept at their end. No torch."""
