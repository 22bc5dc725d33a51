"""Tensors that objects hold, and bytes that live at one time: formulas are held against them."""

import weakref
from collections import Counter
from collections.abc import Mapping

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_PLAIN = (str, bytes, int, float, bool, type(None), torch.device, torch.dtype)


def tensors_of(*roots):
    """Number of tensors by bytes that can be reached from these; views of one another once."""
    seen, found, todo = set(), [], list(roots)
    while todo:
        one = todo.pop()
        if id(one) in seen or isinstance(one, _PLAIN):
            continue
        seen.add(id(one))
        if isinstance(one, torch.Tensor):
            found.append(one)
        else:
            todo += _parts(one)
    whole = {id(tensor) for tensor in found}
    return Counter(tensor.nbytes for tensor in found if id(tensor._base) not in whole)


def _parts(one):
    if isinstance(one, Mapping):
        return list(one.values())
    if isinstance(one, list | tuple | set):
        return list(one)
    if hasattr(one, "__closure__"):
        return [cell.cell_contents for cell in one.__closure__ or ()]
    is_ours = type(one).__module__.startswith(_OURS)
    return list(getattr(one, "__dict__", {}).values()) if is_ours else []


_OURS = ("router.", "shards.")


class LiveBytes(TorchDispatchMode):
    """The most bytes that live at one time of what operations make while this is entered."""

    def __init__(self):
        super().__init__()
        self.now = self.most = 0
        self._known = weakref.WeakSet()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        """Count what the operation makes; what it was given was there before, or is counted."""
        for given in tree_leaves((args, kwargs)):
            if isinstance(given, torch.Tensor):
                self._known.add(given.untyped_storage())
        result = func(*args, **(kwargs or {}))
        for made in tree_leaves(result):
            if isinstance(made, torch.Tensor):
                self._count(made)
        return result

    def _count(self, tensor):
        storage = tensor.untyped_storage()
        if storage in self._known:
            return
        self._known.add(storage)
        size = storage.nbytes()
        self.now += size
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self._forget, size)

    def _forget(self, size):
        self.now -= size
