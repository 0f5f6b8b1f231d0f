"""The pure scheduler: facts in, decisions out. No clock, no ids of its own, no randomness, no I/O."""
