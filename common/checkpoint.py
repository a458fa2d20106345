"""Sealed files: a checkpoint is whole and unchanged, or it is refused.

Layout: 8 bytes magic, 8 bytes length, 32 bytes SHA-256 of what follows, then torch.save's bytes. A
write goes to a temporary file, fsync, rename, fsync of the folder: at every moment the old file or
the new one is there. Reading checks the seal first and then uses weights_only: no code in a file is
ever run.
"""

import hashlib
import io
import json
import os
import pickle
import struct
from pathlib import Path
from typing import Any

import torch

from common.errors import Stop, first_line

MAGIC = b"DIFFCKP1"
HEADER = struct.Struct("<8sQ32s")
# what torch.load raises for a body that a seal is right about and torch.save never wrote
NOT_PLAIN: tuple[type[Exception], ...]
NOT_PLAIN = (pickle.UnpicklingError, RuntimeError, ValueError, EOFError, LookupError, TypeError)
NOT_PLAIN += (AttributeError, AssertionError, OverflowError, struct.error, ImportError)


def write_json(path: Path, content: Any, allow_nan: bool = True) -> None:
    """A JSON file, whole or not at all."""
    write_atomically(path, (json.dumps(content, indent=2, allow_nan=allow_nan) + "\n").encode())


def write_atomically(path: Path, content: bytes) -> None:
    """Replace a file's content so that a crash leaves the old content or the new."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        temporary.unlink(missing_ok=True)  # of a killed process, or a link to somewhere else
        with open(temporary, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)  # a full disk gets its space back
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def save(path: Path, state: dict) -> None:
    """Seal a state of tensors and plain values into a file."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    body = buffer.getbuffer()
    header = HEADER.pack(MAGIC, len(body), hashlib.sha256(body).digest())
    write_atomically(path, b"".join([header, body]))


def load(path: str | Path) -> dict:
    """The state in a sealed file; a damaged, cut or foreign file is a Stop that names it."""
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise Stop(f"{path}: cannot be read ({error.strerror})") from None
    if len(content) < HEADER.size or not content.startswith(MAGIC):
        raise Stop(f"{path}: not a checkpoint of this project")
    _, length, digest = HEADER.unpack(content[: HEADER.size])
    body = memoryview(content)[HEADER.size :]
    if len(body) != length or hashlib.sha256(body).digest() != digest:
        raise Stop(f"{path}: damaged ({len(body)} of {length} bytes, or a wrong SHA-256)")
    try:
        state = torch.load(io.BytesIO(body), map_location="cpu", weights_only=True)
    except NOT_PLAIN as error:
        raise Stop(
            f"{path}: refused, it holds more than tensors and numbers ({first_line(error)})"
        ) from None
    if not isinstance(state, dict):
        raise Stop(f"{path}: not a checkpoint of this project (holds no dictionary)")
    return state


def newest(run_folder: Path) -> Path:
    """The last whole checkpoint of a run; a Stop if it has none."""
    loaded = load_newest(run_folder / "checkpoints")
    if not loaded:
        raise Stop(f"{run_folder}: has no checkpoint, or none that is whole")
    return loaded[1]


def load_newest(folder: Path, warn=print) -> tuple[dict, Path] | None:
    """The newest checkpoint of a folder that is whole; None if there is no file at all."""
    paths = sorted(folder.glob("step_*.pt"), reverse=True)
    for path in paths:
        try:
            return load(path), path
        except Stop as error:
            if path == paths[-1]:
                raise
            warn(f"warning: {error}; going back to the checkpoint before it")
    return None


def save_numbered(folder: Path, step: int, state: dict) -> Path:
    """Save as step_NNNNNNNN.pt and keep the last two; newer ones, once refused, are deleted."""
    folder.mkdir(exist_ok=True)
    path = folder / f"step_{step:08d}.pt"
    for torn in folder.glob("step_*.tmp"):  # of a process that was killed while it saved
        torn.unlink()
    save(path, state)
    there = set(folder.glob("step_*.pt"))
    for other in there - set(sorted(name for name in there if name <= path)[-2:]):
        other.unlink()
    return path
