"""The pure scheduler: facts in, decisions out. No clock, ids, randomness or I/O of its own."""
