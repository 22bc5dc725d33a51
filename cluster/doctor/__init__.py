"""Measures what work costs here, before weights are loaded: the calibration of every prediction."""
