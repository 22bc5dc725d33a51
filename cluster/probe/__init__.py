"""``galerne probe``: exec probes of Kubernetes. Imports little, for it runs every few seconds."""
