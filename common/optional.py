"""Packages that only some features need: imported when they are, and named when they are missing.

pyproject.toml lists them under [project.optional-dependencies].
"""

import importlib
from types import ModuleType

from common.errors import Stop


def optional(module: str, feature: str) -> ModuleType:
    """An optional package; a Stop that says how to install it where it is missing."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        package = module.split(".")[0]
        if error.name is None or error.name.split(".")[0] != package:
            raise  # the package is there and lacks something of its own
        raise Stop(f"{feature} requires {package}: pip install {package}", code=2) from None
