"""The demo model's test: held-out lessons, asked through a running server's public API."""
