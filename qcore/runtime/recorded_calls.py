"""A model's large steps, which go over to recordings of themselves while it tracks.

A small model is two thousand operations a frame, most of them a few microseconds long. Python's lock is given
up and taken again at every one of them, and a thread that computes beside another one spends a third of its
time on that. So each step becomes one call (`recording.py`) once a recording has repeated, in every bit, the
result of a later call with other values.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from sam2.modeling.sam2_base import SAM2Base
from torch import Tensor
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from qcore.models.doubt_head import HEADS_AND_TOKEN
from qcore.runtime.errors import UnsupportedModuleError
from qcore.runtime.recording import record

log = logging.getLogger(__name__)

MOST_POSITIONS = 32 * 32
"""Of a top feature map. Operations of larger models are so long that threads rarely meet at the lock."""
_MODEL_CALLS = ("forward_image", "_forward_sam_heads", HEADS_AND_TOKEN, "_encode_new_memory")
_ATTENTION_CALLS = ("forward", "attend_itself")
_MOST_KINDS = 48
"""Recordings kept of a function; those used last."""
_CALLS_BEFORE = 1
"""Calls of a kind that go by first: kernels re-lay their weights then, and some kinds come only once."""

_MAY_TRY: ContextVar[bool] = ContextVar("may_try", default=False)


@contextlib.contextmanager
def trials() -> Iterator[None]:
    """Let calls of the block, on this thread, be recorded: the second and third take several times as long.

    Elsewhere, where somebody waits for a single answer, only recordings that are there are used.
    """
    token = _MAY_TRY.set(True)
    try:
        yield
    finally:
        _MAY_TRY.reset(token)


@dataclass(slots=True)
class _Kind:
    """What became of one kind of call."""

    calls: int = 0
    recording: Callable[..., Any] | None = None
    is_trusted: bool = False
    is_refused: bool = False
    output_spec: TreeSpec | None = None
    where: list[int] = field(default_factory=list)
    """Positions of the tensors among the results."""
    others: list[Any] = field(default_factory=list)
    """The results, with what are no tensors."""


class Recorded:
    """A function that goes over to recordings of itself, one for each kind of call.

    Within `trials`, the first call of a kind is made as ever, the second is recorded, the third is made both
    ways and must agree in every bit. Arguments and results may be nested in lists, tuples and dicts; what is
    no tensor must be hashable, and counts to the kind. With gradients, or on other devices than the CPU,
    nothing changes.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        functools.update_wrapper(self, function)
        self.function = function
        self._name = getattr(function, "__qualname__", str(type(function)))
        self._kinds: OrderedDict[Any, _Kind] = OrderedDict()
        self._lock = threading.Lock()
        """Guards the kinds."""
        self._trying = threading.Lock()
        """Held while a kind is on trial."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What the function gives."""
        leaves, spec = tree_flatten((args, kwargs))
        tensors = [x for x in leaves if isinstance(x, Tensor)]
        if torch.is_grad_enabled() or not tensors or any(t.device.type != "cpu" for t in tensors):
            return self.function(*args, **kwargs)
        kind = self._kind_of(leaves, spec)
        if kind is not None and kind.is_trusted:
            assert kind.recording is not None
            return _rebuilt(kind, kind.recording(*tensors))
        if kind is None or kind.is_refused or not _MAY_TRY.get():
            return self.function(*args, **kwargs)
        return self._on_trial(kind, leaves, spec, tensors)

    def _kind_of(self, leaves: list[Any], spec: TreeSpec) -> _Kind | None:
        described = tuple(
            (tuple(x.shape), x.stride(), x.dtype) if isinstance(x, Tensor) else (type(x), x) for x in leaves
        )
        # weights are laid down for a number of threads
        key = (described, spec, torch.get_num_threads(), torch.is_inference_mode_enabled())
        try:
            with self._lock:
                kind = self._kinds.get(key)
                if kind is None:
                    kind = self._kinds[key] = _Kind()
                self._kinds.move_to_end(key)
                while len(self._kinds) > _MOST_KINDS:
                    self._kinds.popitem(last=False)
                kind.calls += _MAY_TRY.get()
                return kind
        except TypeError:
            return None  # something in it cannot be a key

    def _on_trial(self, kind: _Kind, leaves: list[Any], spec: TreeSpec, tensors: list[Tensor]) -> Any:
        """A call before its kind is trusted; one thread at a time tries, the others call."""
        if kind.calls <= _CALLS_BEFORE or not self._trying.acquire(blocking=False):
            return self._plain(leaves, spec, tensors)[0]
        try:
            if kind.recording is None and not kind.is_refused:
                return self._record(kind, leaves, spec, tensors)
            result, outputs = self._plain(leaves, spec, tensors)
            if kind.recording is not None and not kind.is_trusted:
                kind.is_trusted = _repeats(kind.recording, tensors, outputs)
                kind.is_refused = not kind.is_trusted
                if kind.is_refused:
                    log.warning("a recording of %s does not repeat it", self._name)
            return result
        finally:
            self._trying.release()

    def _plain(
        self, leaves: list[Any], spec: TreeSpec, tensors: Sequence[Tensor]
    ) -> tuple[Any, list[Tensor]]:
        """The function's result, and the tensors in it."""
        remaining = iter(tensors)
        args, kwargs = tree_unflatten([next(remaining) if isinstance(x, Tensor) else x for x in leaves], spec)
        result = self.function(*args, **kwargs)
        return result, [x for x in tree_flatten(result)[0] if isinstance(x, Tensor)]

    def _record(self, kind: _Kind, leaves: list[Any], spec: TreeSpec, tensors: list[Tensor]) -> Any:
        result: Any = None

        def call(*inputs: Tensor) -> list[Tensor]:
            nonlocal result
            result, outputs = self._plain(leaves, spec, inputs)
            return outputs

        try:
            kind.recording = record(call, tensors)
        except UnsupportedModuleError as error:
            log.info("%s is not recorded: %s", self._name, error)
            kind.is_refused = True
            return self._plain(leaves, spec, tensors)[0] if result is None else result
        outputs, kind.output_spec = tree_flatten(result)
        kind.where = [i for i, x in enumerate(outputs) if isinstance(x, Tensor)]
        kind.others = [None if isinstance(x, Tensor) else x for x in outputs]
        return result


def record_calls(model: SAM2Base) -> None:
    """Have a model's large steps go over to recordings; its weights and modules must stay as they are.

    Hooks of modules inside are called no more once a recording is trusted: see `call_plainly`.
    """
    for owner, names in ((model, _MODEL_CALLS), (model.memory_attention, _ATTENTION_CALLS)):
        for name in names:
            function = getattr(owner, name, None)
            if function is not None and not isinstance(function, Recorded):
                setattr(owner, name, Recorded(function))


def call_plainly(model: SAM2Base) -> None:
    """Take `record_calls` back."""
    for owner in (model, model.memory_attention):
        for name, value in list(vars(owner).items()):
            if isinstance(value, Recorded):
                delattr(owner, name)
                if not hasattr(owner, name):  # a method of this model, not of its class
                    setattr(owner, name, value.function)


def _rebuilt(kind: _Kind, outputs: Sequence[Tensor]) -> Any:
    assert kind.output_spec is not None
    leaves = list(kind.others)
    for index, output in zip(kind.where, outputs, strict=True):
        leaves[index] = output
    return tree_unflatten(leaves, kind.output_spec)


def _repeats(recording: Callable[..., Any], tensors: Sequence[Tensor], outputs: Sequence[Tensor]) -> bool:
    try:
        again = recording(*tensors)
    except RuntimeError as error:
        log.info("a recording cannot run: %s", error)
        return False
    return all(_is_same(a, b) for a, b in zip(outputs, again, strict=True))


def _is_same(a: Tensor, b: Tensor) -> bool:
    if (a.shape, a.stride(), a.dtype) != (b.shape, b.stride(), b.dtype):
        return False
    return bool(((a == b) | ((a != a) & (b != b))).all())
