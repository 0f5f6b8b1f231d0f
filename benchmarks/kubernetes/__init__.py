"""Schedulers beside each other on one real API server."""
