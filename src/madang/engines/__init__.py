"""Engines run what the scheduler decided: local processes, a virtual fleet, Kubernetes."""
