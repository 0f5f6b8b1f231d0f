"""Kubernetes as an engine: pods instead of processes, the API server instead of a shim.

The core decides as it does everywhere; what it decided becomes Binding and Eviction calls, and what
the API server tells becomes facts. Nothing is kept here that cannot be read again from it.
"""
