"""Violation rules: what is measured for them, and when they are broken and kept."""
