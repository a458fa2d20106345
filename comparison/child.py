"""Starts a script that is asked to stop when the process which started it dies.

python comparison/child.py PARENT SCRIPT [FLAG ...]
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # of sys/prctl.h; it outlives exec

if __name__ == "__main__":
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != int(sys.argv[1]):  # it died before it could be watched
        sys.exit(143)
    os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
