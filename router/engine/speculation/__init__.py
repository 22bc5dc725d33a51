"""Speculative decoding: guesses at the next tokens, and when they pay. No torch."""
