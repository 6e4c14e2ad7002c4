"""What a module keeps from call to call: buffers that it changes, tensors that it hangs on itself."""

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree  # what torch takes nested values apart with

_TORCHS_OWN = frozenset({"_parameters", "_buffers", "_modules", "_flat_weights", "_flat_weight_refs"})

Kept = dict[str, Tensor]
"""Copies of a module's tensors beside its parameters, by name."""


def kept(module: nn.Module) -> Kept:
    """All that a module and its submodules hold now."""
    found = {}
    for name, submodule in module.named_modules():
        held = {key: value for key, value in vars(submodule).items() if key not in _TORCHS_OWN}
        for attribute, value in {**submodule._buffers, **held}.items():
            leaves = [each for each in pytree.tree_leaves(value) if isinstance(each, Tensor)]
            for k, leaf in enumerate(leaves):
                key = ".".join(part for part in (name, attribute) if part)
                found[f"{key}.{k}" if len(leaves) > 1 else key] = leaf.detach().clone()
    return found


def unlike_itself(module: nn.Module, before: Kept) -> str:
    """Why a module gives other numbers when it is called again, in one line.

    Args:
        module: after the calls.
        before: what it held before them.
    """
    again = f"{type(module).__name__} gives other numbers when it is called again with the same"
    changed = [name for name, tensor in kept(module).items() if not _same(before.get(name), tensor)]
    if changed:
        return (
            f"{again}: it keeps '{changed[0]}' from call to call, a state that nobody carries; make it an argument and "
            "a result of forward"
        )
    return f"{again}: something in it is random (dropout that does not look at self.training?), or it keeps something"


def _same(before: Tensor | None, after: Tensor) -> bool:
    return before is not None and before.shape == after.shape and torch.equal(before, after)
