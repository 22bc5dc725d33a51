"""LoRA adapters: reading them, and what they change of which weights."""
