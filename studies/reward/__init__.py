"""Reward fine-tuning: the strength of its entropy term by bilevel optimisation and by search."""
