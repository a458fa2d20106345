"""What is done to a file: something in it is gone, or something else; and how it is refused."""

import random

from common.errors import Stop

ODD = [None, True, -1, 10**400, 1e300, "", "x" * 5000, [], {}, [[]], "../..", "\x00", "nan"]


def stopped(work, *names: str) -> str:
    """The message of the Stop that some work ends in."""
    try:
        work()
    except Stop as error:
        text = str(error)
        assert "\n" not in text and all(name in text for name in names), text
        return text
    raise AssertionError("it was taken")


def leaves(content, place=()):
    """The places of everything in nested dictionaries and lists."""
    items = content.items() if isinstance(content, dict) else ()
    items = enumerate(content) if isinstance(content, list) else items
    for key, value in items:
        yield (*place, key)
        yield from leaves(value, (*place, key))


def spoiled_content(content, rng: random.Random) -> None:
    """Something in it is gone, or something else."""
    *way, last = rng.choice(list(leaves(content)))
    for key in way:
        content = content[key]
    if rng.random() < 0.3:
        del content[last]
    else:
        content[last] = rng.choice(ODD)
