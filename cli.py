"""What the scripts' command lines share, without importing torch: a wrong flag answers at once."""

import argparse
import math
import sys


class Stop(Exception):
    """A reason to end the run that its user can act on: printed as one line, without a traceback."""

    def __init__(self, message: str, code: int = 1):
        super().__init__(message)
        self.code = code
