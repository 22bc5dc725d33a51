"""TLS for clients: an HAProxy of our own in front of Serve's, which has no TLS listener."""
