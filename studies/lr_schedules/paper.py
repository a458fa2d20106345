"""What the paper reports, and the names that its tables use.

*Optimizing Diffusion Models: A Comparative Study of Learning Rate Schedules*.
"""

NAMES = {
    "constant": "constant",
    "step": "StepLR",
    "exponential": "ExponentialLR",
    "plateau": "ReduceLROnPlateau",
    "cosine": "CosineAnnealingLR",
}
DECAYING = ("step", "exponential", "plateau")
METRICS = {  # in the order of the paper's tables: title, unit, format
    "training": ("Training time of a run", "s", ".0f"),
    "loss": ("Evaluation loss", "", ".3f"),
    "sampling": ("Inference time", "s", ".2f"),
    "kl": ("KL divergence, real from generated", "nats", ".3f"),
}
# (lr_schedule, set): one value a metric
PAPER = {
    ("constant", "circle"): (127.74, 0.438, 0.89, 0.343),
    ("constant", "dino"): (128.44, 0.663, 0.92, 1.063),
    ("constant", "line"): (129.12, 0.807, 0.67, 0.168),
    ("constant", "moons"): (129.21, 0.613, 1.03, 0.088),
    ("step", "circle"): (109.53, 0.804, 0.85, 6.034),
    ("step", "dino"): (109.80, 0.892, 1.05, 7.142),
    ("step", "line"): (111.87, 0.842, 0.84, 0.422),
    ("step", "moons"): (108.61, 0.825, 0.88, 2.624),
    ("exponential", "circle"): (109.07, 0.574, 0.64, 2.569),
    ("exponential", "dino"): (107.92, 0.800, 0.57, 6.570),
    ("exponential", "line"): (111.73, 0.820, 0.62, 0.269),
    ("exponential", "moons"): (107.13, 0.710, 0.60, 1.530),
    ("plateau", "circle"): (114.61, 0.763, 0.88, 5.571),
    ("plateau", "dino"): (112.58, 0.885, 0.70, 7.116),
    ("plateau", "line"): (114.36, 0.902, 0.81, 0.704),
    ("plateau", "moons"): (114.42, 0.789, 0.71, 2.434),
    ("cosine", "circle"): (111.48, 0.449, 0.53, 0.333),
    ("cosine", "dino"): (109.98, 0.681, 0.76, 1.636),
    ("cosine", "line"): (110.18, 0.807, 0.99, 0.172),
    ("cosine", "moons"): (109.36, 0.624, 0.80, 0.098),
}


def of_the_paper(metric: str, lr_schedule: str, name: str) -> float:
    """The paper's value of a metric for a learning-rate schedule and a data set."""
    return PAPER[lr_schedule, name][list(METRICS).index(metric)]
