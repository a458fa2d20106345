"""The parts of the schedule search."""
