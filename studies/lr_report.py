"""The report."""

SHOWN = 300
