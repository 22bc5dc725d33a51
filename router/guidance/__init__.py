"""Grammars: from what a client asks for to masks over tokens, by llguidance. No torch."""
