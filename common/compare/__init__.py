"""What differs between runs: tables, figures and one HTML page (python -m common.compare)."""
