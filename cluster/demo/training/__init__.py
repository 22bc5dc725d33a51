"""How the demo model was made: plain torch, seeded, resumable. Serving needs nothing of it."""
