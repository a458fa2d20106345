"""Measurements: each file answers one question."""
