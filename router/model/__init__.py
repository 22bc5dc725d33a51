"""Attention, dense layers, vision and the paged latent cache."""
