"""The cluster on a virtual clock: real scheduler and autoscaler, step times from a cost model."""
