"""The daemon: one loop that turns requests and observations into committed decisions."""
