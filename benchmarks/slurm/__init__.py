"""Slurm, from Debian's packages, as a throwaway cluster of one node on this machine's loopback."""
