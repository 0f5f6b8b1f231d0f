"""Timed measurements: each prints a table for people and writes JSON for the record.

Timed checks live here and never in tests. Run them on a quiet machine: `make bench`, or one by
one with `python -m benchmarks.NAME --help`.
"""
