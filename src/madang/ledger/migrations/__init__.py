"""The schema's history: one file per step, forward only, never edited after a release."""
