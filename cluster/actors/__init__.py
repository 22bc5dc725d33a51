"""Ray actors: thin shells around what runs without Ray."""
