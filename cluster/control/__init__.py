"""Decisions about who serves what, and the calls that carry them out. Nothing here knows Ray."""
