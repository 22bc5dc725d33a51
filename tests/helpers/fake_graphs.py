"""Stands in for CUDA's graphs where there is no GPU: a replay computes what the capture recorded.

Kernels (of Triton's interpreter) and torch's operations are recorded with the tensors they took.
A replay computes them again from and to the same memory, numbers as they were: what depends on
anything but its buffers gives a wrong result. Rules of a real capture hold:

- nothing is read by the host, and nothing comes from its memory;
- a capture computes nothing: what it made is spoilt at its end;
- what graphs of one pool make on their way may be spoilt by any other's replay; what a capture made
  and somebody still holds at its end is its own;
- what a capture took and did not make must still be there at every replay;
- a pool ends with its last graph.
"""

import ctypes
import weakref
from contextlib import nullcontext
from types import SimpleNamespace

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from triton.runtime.interpreter import InterpretedFunction

_ATEN = torch.ops.aten
_WAITS = {
    _ATEN._local_scalar_dense,
    _ATEN.item,
    _ATEN.equal,
    _ATEN.is_nonzero,
    _ATEN.nonzero,
    _ATEN.masked_select,
    _ATEN._unique2,
    _ATEN.unique_dim,
    _ATEN.unique_consecutive,
}
_ALLOCATES = {
    _ATEN.empty,
    _ATEN.empty_like,
    _ATEN.empty_strided,
    _ATEN.new_empty,
    _ATEN.new_empty_strided,
}
_HOST_READS = ("cpu", "numpy", "tolist", "item", "pin_memory", "__bool__", "__int__", "__float__")
_HOST_MEMORY = ("tensor", "from_numpy", "as_tensor")
_FACTORIES = ("zeros", "ones", "empty", "full", "arange", "rand", "randn", "linspace")


class CaptureError(RuntimeError):
    """CUDA would not have captured this, or a replay would read what is no longer there."""


def _place(tensor):
    return tensor.untyped_storage().data_ptr()


def _tensors(*trees):
    return [leaf for leaf in tree_leaves(trees) if isinstance(leaf, torch.Tensor)]


class _Lent:
    """A tensor of somebody else, who may let it go."""

    def __init__(self, tensor):
        self._ref = StorageWeakRef(tensor.untyped_storage())
        self._like = tensor.dtype, tensor.storage_offset(), tensor.size(), tensor.stride()

    @property
    def is_gone(self):
        return self._ref.expired()

    def tensor(self):
        dtype, *where = self._like
        storage = torch.UntypedStorage._new_with_weak_ptr(self._ref.cdata)
        return torch.empty(0, dtype=dtype).set_(storage, *where)


def _found(tree):
    """Arguments of a recorded step, as a replay takes them."""
    return tree_map(lambda x: x.tensor() if isinstance(x, _Lent) else x, tree)


class _Capture(TorchDispatchMode):
    """Records what is done while it is entered, and does it."""

    def __init__(self):
        super().__init__()
        self.steps = []  # called one after the other by a replay
        self.made = {}  # by place: an alias of what lies there
        self.lent = []  # what came from outside
        self._shown = []  # (place, weak reference) of tensors that the recorded code got
        self.in_kernel = False

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if self.in_kernel:
            return func(*args, **kwargs)
        self._check(func, args, kwargs)
        given = _tensors(args, kwargs)
        again = self._kept_for_replay((args, kwargs))
        out = func(*args, **kwargs)
        places = {_place(t) for t in given}
        results = _tensors(out)
        for tensor in results:
            if _place(tensor) not in places:
                self.made[_place(tensor)] = tensor.detach()
            self._shown.append((_place(tensor), weakref.ref(tensor)))
        if func._schema.is_mutable:
            self.steps.append(lambda: _again(func, again))
        elif func.overloadpacket not in _ALLOCATES:
            fresh = [t.detach() for t in results if _place(t) not in places]
            if fresh:
                assert len(fresh) == len(results), f"{func}: partly a view"
                self.steps.append(lambda: _refill(fresh, _again(func, again)))
        return out

    def _check(self, func, args, kwargs):
        if func.overloadpacket in _WAITS:
            raise CaptureError(f"{func} waits for the device")
        is_index = func.overloadpacket in (_ATEN.index, _ATEN.index_put, _ATEN.index_put_)
        if is_index and any(t.dtype is torch.bool for t in _tensors(args[1])):
            raise CaptureError(f"{func} by a mask waits for the device")

    def _kept_for_replay(self, tree):
        """Our own names for what was made here, so that who else holds it can be told."""

        def kept(x):
            if not isinstance(x, torch.Tensor):
                return x
            if _place(x) in self.made:
                return x.detach()
            self.lent.append(_Lent(x))
            return self.lent[-1]

        return tree_map(kept, tree)

    def launch(self, run, kernel, args, kwargs):
        """Record a kernel's launch and compute it."""
        self.in_kernel = True
        try:
            again = self._kept_for_replay((args, kwargs))
            self.steps.append(lambda: _again(run, ((kernel, *again[0]), again[1])))
            run(kernel, *args, **kwargs)
        finally:
            self.in_kernel = False

    def kept(self):
        """Places of what somebody outside holds."""
        return {place for place, ref in self._shown if place in self.made and ref() is not None}


def _again(func, arguments):
    args, kwargs = _found(arguments)
    return func(*args, **kwargs)


def _refill(fresh, results):
    for old, new in zip(fresh, _tensors(results), strict=True):
        old.copy_(new)


def _spoil(tensor):
    """NaN, or -1: what is no index, and reads nowhere far away."""
    storage = tensor.untyped_storage()
    ctypes.memset(storage.data_ptr(), 0xFF, storage.nbytes())


class FakeCuda:
    """Replaces what ``torch.cuda`` has for graphs, by ``monkeypatch``; one device, one stream."""

    def __init__(self, monkeypatch):
        self.capture = None
        self.captures = self.replays = 0
        self._pools = {}  # handle: weak references to its graphs
        self._handles = 0
        self._patch = monkeypatch
        fake = self

        class Graph:
            """As ``torch.cuda.CUDAGraph``."""

            def __init__(self):
                self.recording, self.kept, self.pool_handle = None, set(), None

            def replay(self):
                fake.replay(self)

        class Capturing:
            """As ``torch.cuda.graph``."""

            def __init__(self, graph, pool=None, stream=None, capture_error_mode="global"):
                self._graph, self._pool = graph, fake.graph_pool_handle() if pool is None else pool

            def __enter__(self):
                fake.begin(self._pool)

            def __exit__(self, kind, error, trace):
                fake.end(self._graph, self._pool, is_good=kind is None)

        stream = SimpleNamespace(wait_stream=lambda other: None, synchronize=self.synchronize)
        for name, value in {
            "CUDAGraph": Graph,
            "graph": Capturing,
            "graph_pool_handle": self.graph_pool_handle,
            "Stream": lambda device=None: stream,
            "stream": lambda chosen: nullcontext(),
            "current_stream": lambda device=None: stream,
            "synchronize": self.synchronize,
        }.items():
            monkeypatch.setattr(torch.cuda, name, value)
        self._watch_kernels()
        self._watch_the_host()

    @property
    def num_pools(self):
        """Pools that have graphs."""
        return sum(bool(self._alive(pool)) for pool in self._pools)

    def graph_pool_handle(self):
        self._handles += 1
        self._pools[self._handles] = []
        return self._handles

    def synchronize(self, device=None):
        if self.capture is not None:
            raise CaptureError("the host waits for a stream that is captured")

    def begin(self, pool):
        if self.capture is not None:
            raise CaptureError("two captures at one time")
        if self._pools[pool] and not self._alive(pool):
            raise CaptureError("the pool has ended with its last graph")
        self.capture = _Capture()
        self.capture.__enter__()
        self.captures += 1

    def end(self, graph, pool, is_good):
        capture, self.capture = self.capture, None
        capture.__exit__(None, None, None)
        if is_good:
            graph.recording, graph.pool_handle = capture, pool
            self._pools[pool].append(weakref.ref(graph))
            for tensor in capture.made.values():
                _spoil(tensor)

    def replay(self, graph):
        if self.capture is not None:
            raise CaptureError("a replay within a capture")
        if any(lent.is_gone for lent in graph.recording.lent):
            raise CaptureError("what the capture took is gone")
        for other in self._alive(graph.pool_handle):
            made = other.recording.made
            kept = set() if other is graph else other.recording.kept()
            for place in made.keys() - kept:
                _spoil(made[place])
        with torch.inference_mode():
            for step in graph.recording.steps:
                step()
        self.replays += 1

    def _alive(self, pool):
        return [graph for ref in self._pools[pool] if (graph := ref()) is not None]

    def _watch_kernels(self):
        run = InterpretedFunction.run

        def spy(kernel, *args, **kwargs):
            if self.capture is None:
                return run(kernel, *args, **kwargs)
            return self.capture.launch(run, kernel, args, kwargs)

        self._patch.setattr(InterpretedFunction, "run", spy)

    def _watch_the_host(self):
        for name in _HOST_READS:
            self._forbid(torch.Tensor, name, lambda kwargs: True)
        for name in _HOST_MEMORY:
            self._forbid(torch, name, lambda kwargs: True)
        for name in _FACTORIES:
            self._forbid(torch, name, lambda kwargs: kwargs.get("device") is None)

    def _forbid(self, owner, name, is_hosts):
        plain = getattr(owner, name)

        def guarded(*args, **kwargs):
            capture = self.capture
            if capture is not None and not capture.in_kernel and is_hosts(kwargs):
                raise CaptureError(f"{name}: the host's memory within a capture")
            return plain(*args, **kwargs)

        self._patch.setattr(owner, name, guarded)
