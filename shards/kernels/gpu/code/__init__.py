"""Device code: Triton functions only. What they compute is said in words beside their launchers."""
