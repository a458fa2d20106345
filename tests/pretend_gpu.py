"""A pretend accelerator: tensors that claim to lie on a GPU and compute on the CPU.

A `Resident` tensor holds a CPU tensor and reports the device `pretend:0`, a backend of torch that
is written in Python. Each operator on one runs on what it holds, with real numbers, and is checked
as a GPU would check it: operators that mix devices are refused, and where it is to pass for mps, so
is float64. What would cost time there is
noted with the line of the project that caused it: a wait (the host needs a number), a copy (a
tensor goes from the host to the device), a launch (any operator that is not a view).

Registering the backend changes torch for the whole process: only a process of its own imports this.
"""

import contextlib
import functools
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import torch
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing

ROOT = str(Path(__file__).resolve().parent.parent)
WAITS = {"_local_scalar_dense", "nonzero", "masked_select", "equal", "_unique2", "bincount"}
# linear algebra reads an error code back from the device
WAITS |= {f"_linalg_{n}" for n in ("svd", "eigh", "det", "solve_ex")} | {"linalg_cholesky_ex"}
FREE = {"detach", "empty", "empty_like", "empty_strided", "new_empty", "alias", "_unsafe_view"}
FREE |= {"_local_scalar_dense", "lift_fresh", "_reshape_alias", "is_same_size"}


class _Backend(backend_registration._DummyBackendModule):
    """What torch asks of a backend's module: autocast's types, random states, no capture."""

    def get_amp_supported_dtype(self):
        return [torch.bfloat16, torch.float16]

    def get_rng_state(self, *_):
        return torch.get_rng_state()

    def is_capturing(self, *_):
        return False

    def _lazy_init(self):
        pass


backend_registration._setup_privateuseone_for_python_backend("pretend", _Backend())
DEVICE = torch.device("pretend:0")
# a kernel of its own on a GPU; without one here, torch would compose it of five others
_library = torch.library.Library("aten", "IMPL")
_library.impl("silu_backward", lambda g, x: torch.ops.aten.silu_backward(g, x), "PrivateUse1")


class DeviceMix(RuntimeError):
    """An operator got tensors of two devices."""


class Traffic:
    """What happened on the device: counts by (operator, place in the project)."""

    def __init__(self):
        self.waits, self.copies, self.launches = Counter(), Counter(), Counter()

    def clear(self):
        for counter in (self.waits, self.copies, self.launches):
            counter.clear()

    def totals(self) -> tuple[int, int]:
        """Waits and copies."""
        return self.waits.total(), self.copies.total()


traffic = Traffic()
has_float64 = True


def _place() -> str:
    """The innermost line of the project that led here."""
    frame = sys._getframe(1)
    while frame:
        name = frame.f_code.co_filename
        if name.startswith(ROOT) and not name.endswith("pretend_gpu.py"):
            return f"{name.removeprefix(ROOT)[1:]}:{frame.f_lineno}"
        frame = frame.f_back
    return "?"


class Resident(torch.Tensor):
    """A tensor on the pretend device."""

    @staticmethod
    def __new__(cls, held: torch.Tensor):
        if held.dtype == torch.float64 and not has_float64:
            raise TypeError(f"float64 on the device, at {_place()}")
        tensor = torch.Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            layout=held.layout,
            device=DEVICE,
        )
        tensor.held = held
        return tensor

    __torch_dispatch__ = classmethod(
        lambda cls, f, types, args=(), kw=None: _run(f, args, kw or {})
    )

    def __tensor_flatten__(self):
        return ["held"], None

    @staticmethod
    def __tensor_unflatten__(parts, *_):
        return Resident(parts["held"])

    def tolist(self):
        traffic.waits["tolist", _place()] += 1
        return self.detach().held.tolist()

    def __repr__(self):
        return f"Resident({tuple(self.shape)}, {self.dtype})"

    def __reduce_ex__(self, protocol):  # into a checkpoint
        traffic.waits["checkpoint", _place()] += 1
        return self.held.detach().clone().__reduce_ex__(protocol)


class _Everywhere(TorchDispatchMode):
    """Sends the operators that make tensors, and the host's own, the same way."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})


def _mapped(f: Callable, tree):
    """The same nest of lists, tuples and dictionaries, f applied to what is in it.

    An operator's arguments need no more; torch's own tree_map took half of a run's time.
    """
    if isinstance(tree, (list, tuple)):
        parts = [_mapped(f, part) for part in tree]
        return parts if type(tree) is list else tuple(parts)
    if isinstance(tree, dict):
        return {key: _mapped(f, part) for key, part in tree.items()}
    return f(tree)


def _tensors(tree) -> Iterator[torch.Tensor]:
    if isinstance(tree, torch.Tensor):
        yield tree
    elif isinstance(tree, (list, tuple)):
        for part in tree:
            yield from _tensors(part)


@functools.cache
def _is_composite(func) -> bool:
    """Whether it has no kernel of its own: it is made of other operators on every device."""
    has_kernel = functools.partial(torch._C._dispatch_has_kernel_for_dispatch_key, func.name())
    return has_kernel("CompositeImplicitAutograd") and not has_kernel("CPU")


def _run(func, args, kwargs):
    if _is_composite(func):
        with _Everywhere():
            out = func.decompose(*args, **kwargs)
        if out is not NotImplemented:
            return out
    name = func._schema.name.split("::")[1]
    tensors = [*_tensors(args), *_tensors(tuple(kwargs.values()))]
    if name == "_to_copy" and not isinstance(args[0], torch.Tensor):  # a number, inside functorch
        options = {k: v for k, v in kwargs.items() if k != "memory_format"}
        return torch.scalar_tensor(args[0], **options)
    resident = [x for x in tensors if isinstance(x, Resident)]
    host = [x for x in tensors if not isinstance(x, Resident)]
    target = kwargs.get("device")
    lands = torch.device(target).type == DEVICE.type if target is not None else bool(resident)
    _note(func, name, args, kwargs, resident, host, lands)

    held_args, held_kwargs = _mapped(
        lambda x: x.held if isinstance(x, Resident) else x, (args, kwargs)
    )
    if held_kwargs.get("device") is not None and lands:
        held_kwargs = {**held_kwargs, "device": torch.device("cpu")}
    held_kwargs.pop("pin_memory", None)
    if name == "_efficientzerotensor":  # has no storage, which a wrapper needs
        func = torch.ops.aten.zeros.default
    out = func(*held_args, **held_kwargs)
    if not lands:
        return out
    out = _mapped(lambda x: Resident(x) if type(x) is torch.Tensor else x, out)
    if not resident or name in ("_to_copy", "_efficientzerotensor"):
        return out
    return return_and_correct_aliasing(func, args, kwargs, out)


def _note(func, name, args, kwargs, resident, host, lands):
    """Refuse what mixes devices; count what waits, copies and is launched."""
    if name == "_to_copy":
        if resident and not lands and kwargs.get("dtype") == torch.float64 and not has_float64:
            raise TypeError(f"to the host and to float64 in one copy, at {_place()}")
        if resident and not lands:
            traffic.waits["to the host", _place()] += 1
        if host and lands:
            traffic.copies[f"{tuple(host[0].shape)}", _place()] += 1
    elif resident and host:
        _mixed(name, args, host)
    if resident and name in WAITS:
        traffic.waits[name, _place()] += 1
    if resident and name in ("index", "index_put", "index_put_", "_index_put_impl_"):
        masks = [i for i in args[1] if i is not None and i.dtype == torch.bool]
        traffic.waits[f"{name} by a mask", _place()] += bool(masks)
    if resident and not func.is_view and name not in FREE:
        traffic.launches[name, _place()] += 1


def _mixed(name, args, host):
    if name in ("copy_", "_foreach_copy_"):
        to = args[0] if isinstance(args[0], torch.Tensor) else args[0][0]
        if isinstance(to, Resident):
            traffic.copies[name, _place()] += len(host)
        else:
            traffic.waits[f"{name} to the host", _place()] += 1
    elif name.startswith("index") and not name.startswith("index_select"):
        traffic.copies[f"{name}: indices of the host", _place()] += 1
    elif any(x.ndim for x in host) or name in ("cat", "stack", "where", "embedding", "gather"):
        raise DeviceMix(f"{name} at {_place()}: of the host {[tuple(x.shape) for x in host]}")


_real_generator = torch.Generator


class _Generator:
    """A generator of the host, whatever device it is asked for."""

    def __new__(cls, device="cpu"):
        return _real_generator("cpu")


@contextlib.contextmanager
def pretend(float64: bool = True):
    """Inside, the device exists, with float64 or without; yields what happens on it."""
    global has_float64
    has_float64 = float64
    before = torch._C._only_lift_cpu_tensors()
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch("torch.Generator", _Generator))
        stack.enter_context(_Everywhere())
        torch._C._set_only_lift_cpu_tensors(True)
        stack.callback(torch._C._set_only_lift_cpu_tensors, before)
        traffic.clear()
        yield traffic
