"""Which variants of kernels are launched, as Triton tells them apart, without computing anything.

The key is made by Triton's own binder: types, alignment of pointers, integers that are 1 or
multiples of 16, constants and options. What is launched under a new key would be compiled.
"""

import inspect
from contextlib import contextmanager

from triton.backends.compiler import BaseBackend
from triton.runtime.interpreter import InterpretedFunction
from triton.runtime.jit import KernelParam, create_function_from_signature

_binders = {}
# What torch's own operations then take for indices: something that is one.
_INDICES = {"top_k": ("expert_ids",), "layout": ("row_token", "row_out", "tiles")}


def _binder(kernel):
    if kernel.fn not in _binders:
        signature = inspect.signature(kernel.fn)
        plain = kernel.kwargs.get("do_not_specialize") or ()
        params = [
            KernelParam(i, p, p.name in plain or i in plain, False)
            for i, p in enumerate(signature.parameters.values())
        ]
        binder = create_function_from_signature(signature, params, BaseBackend)
        _binders[kernel.fn] = binder
    return _binders[kernel.fn]


def key_of(kernel, args, kwargs):
    """Name of the kernel, and what of its arguments and options decides which code runs."""
    _, specialization, options = _binder(kernel)(*args, **kwargs)
    return kernel.fn.__name__, str(specialization), str(sorted(options.items()))


class LaunchKeys:
    """Keys seen since the last ``forget``; nothing is computed while it is ``listening``."""

    def __init__(self):
        self.seen = {}  # by key: how often

    @contextmanager
    def listening(self, monkeypatch):
        def spy(kernel, *args, grid, warmup, **kwargs):
            key = key_of(kernel, args, kwargs)
            for name in _INDICES.get(key[0], ()):
                args[kernel.arg_names.index(name)].zero_()
            self.seen[key] = self.seen.get(key, 0) + 1

        with monkeypatch.context() as patch:
            patch.setattr(InterpretedFunction, "run", spy)
            yield self
