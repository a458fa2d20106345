"""Learning-rate schedules on 2-D data."""
