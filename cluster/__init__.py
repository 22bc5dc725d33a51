"""The control plane and composition root: config, Ray actors, Serve ingress, CLI."""
