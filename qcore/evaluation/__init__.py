"""Metrics and dataset readers."""
