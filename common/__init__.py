"""What the scripts share; nothing in here imports a script."""
