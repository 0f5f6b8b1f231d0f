"""Telemetry: what sensors said, in: frames; kept: a live ring, history, quantiles; and asked."""
