"""Writes the Grafana dashboards."""
