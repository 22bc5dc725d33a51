"""Seeded synthetic lessons of the demo model: what it is taught, and what it is tested on."""
