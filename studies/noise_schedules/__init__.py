"""The findings of Chen (2023) on noise schedules and image size, on a small scale."""
