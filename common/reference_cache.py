"""A reference's mean, covariance and sample on disk: whole, checked and without pickle."""

import hashlib
import io
import json
import os
import tempfile
import warnings
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import Stop

# a flipped bit in a zip header can claim encryption or an unknown method: RuntimeError
READ_ERRORS = (
    OSError,
    ValueError,
    KeyError,
    EOFError,
    RuntimeError,
    zipfile.BadZipFile,
    zlib.error,
    TypeError,  # an .npy in its place is an array, which is no context manager
    AttributeError,
    RecursionError,
    MemoryError,  # a header claims more than there is
    OverflowError,
)
ARRAYS = ("mean", "cov", "sample")


def read_statistics(path: Path, key: dict) -> tuple[np.ndarray, ...] | None:
    """Mean, covariance and sample; None where there is no file or a damaged one."""
    if not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as file:
            header, arrays = json.loads(str(file["header"])), [file[name] for name in ARRAYS]
            if str(file["checksum"]) != _checksum(header, arrays):
                raise ValueError("its checksum differs")
            mean, cov, sample = arrays
            if cov.shape != 2 * mean.shape or sample.shape[1:] != mean.shape or mean.ndim != 1:
                raise ValueError("its shapes do not fit")
            known = dict(header)
    except READ_ERRORS as error:
        warnings.warn(f"{path}: damaged ({error}), computed again", stacklevel=3)
        return None
    wrong = [f"{k} is {known.get(k)}, not {v}" for k, v in key.items() if known.get(k) != v]
    if wrong:
        raise Stop(f"{path}: made for something else ({'; '.join(wrong)}); delete it")
    return tuple(arrays)


def write_statistics(path: Path, key: dict, *arrays: np.ndarray) -> None:
    """Whole or not at all, also when several runs write at once."""
    buffer = io.BytesIO()
    named: dict[str, Any] = dict(zip(ARRAYS, arrays, strict=True))
    np.savez(buffer, header=json.dumps(key), checksum=_checksum(key, arrays), **named)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".tmp", delete=False) as file:
            temporary = file.name
            file.write(buffer.getvalue())
        os.replace(temporary, path)
    except OSError as error:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
        warnings.warn(f"{path}: not written ({error.strerror}), not cached", stacklevel=3)


def _checksum(header, arrays):
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for part in arrays:
        digest.update(f"{part.dtype} {part.shape}".encode())
        digest.update(np.ascontiguousarray(part))
    return digest.hexdigest()
