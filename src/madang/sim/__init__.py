"""The simulator: the same core as the daemon, driven by traces instead of machines."""
