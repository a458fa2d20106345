"""The comparison of methods that reproduce.py runs."""
