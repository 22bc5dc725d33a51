"""What a topology would give under a load, and which one to choose. Pure: no clock, no I/O."""
