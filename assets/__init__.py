"""What is shipped, and the commands that made it."""
