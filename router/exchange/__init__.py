"""Dispatch, combine, the exchange session and its transports."""
