"""torch's AdamW without the import of torch's compiler, which doubles the start-up time.

torch wraps the methods of its optimizers so that its compiler leaves them alone, and the wrappers
import the compiler when they are first called. The functions below the wrappers are called here
instead; they are the same functions. Read in torch 2.11 and 2.14: where a version has no such
wrapper, nothing is changed. tests/test_speed.py holds the steps to torch's own, bit for bit, and
checks that a run never imports the compiler.
"""

import torch


class AdamW(torch.optim.AdamW):
    """torch.optim.AdamW, its step called directly."""

    step = torch.no_grad()(getattr(torch.optim.AdamW.step, "__wrapped__", torch.optim.AdamW.step))


for _name in ("state_dict", "load_state_dict", "zero_grad", "add_param_group"):
    _wrapper = getattr(torch.optim.Optimizer, _name)
    if _function := getattr(_wrapper, "__wrapped__", None):
        # the attribute in which a wrapper keeps what the compiler made of the function: filled
        # with the function itself, the compiler is never asked
        _function.__dynamo_disable = _function
