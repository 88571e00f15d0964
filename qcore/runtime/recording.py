"""Functions of tensors, recorded once and run again as one call outside Python.

A small model is two thousand operations a frame, most of them a few microseconds long. Python's lock is given
up and taken again at every one of them, and a thread that computes beside another one spends a third of its
time on that. A recording is the list of operations that a call went through, as a graph of PyTorch's
interpreter: it computes the same, bit for bit, and other threads run on meanwhile.

Recordings are made of calls whose operations depend on the kinds of their inputs (shapes, strides, dtypes)
alone. A function that looks at values, or changes what is not its own, is refused and goes on as it is; so is
one whose recording did not repeat the result of a later call with other values.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from sam2.modeling.sam2_base import SAM2Base
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten
from torch.utils.weak import WeakIdKeyDictionary

from qcore.runtime.errors import UnsupportedModuleError

log = logging.getLogger(__name__)

MOST_POSITIONS = 32 * 32
"""Of a top feature map. Operations of larger models are so long that threads rarely meet at the lock."""
_MODEL_CALLS = ("forward_image", "_forward_sam_heads", "_encode_new_memory")
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


def record(function: Callable[..., Sequence[Tensor]], inputs: Sequence[Tensor]) -> Callable[..., Any]:
    """Call a function and make a callable of the operations it went through.

    Args:
        function: from tensors to tensors; what else it reads, and what it makes of values outside PyTorch
            (``numpy()``), is taken as it is now.
        inputs: one call's.

    Returns:
        a callable from tensors of the same kinds to a tuple of tensors.

    Raises:
        UnsupportedModuleError: the operations depend on values, change other tensors than the function's own,
            or have no counterpart in the interpreter.
    """
    recorder = _Recorder(inputs)
    with recorder:
        outputs = function(*inputs)
    try:
        return recorder.callable(outputs)
    except (AttributeError, RuntimeError) as error:
        raise UnsupportedModuleError(f"PyTorch's interpreter refuses it: {error}") from error


class _Recorder(TorchDispatchMode):
    """Writes the operations of a block down in the text form of PyTorch's graphs."""

    def __init__(self, inputs: Sequence[Tensor]) -> None:
        super().__init__()
        self._lines: list[str] = []
        self._count = 0
        self._names: Any = WeakIdKeyDictionary()
        """Of the inputs, and of what recorded operations gave."""
        self._made: Any = WeakIdKeyDictionary()
        """Those of them that are neither inputs nor views of what was there before."""
        self._operators: list[str] = []
        """Names of the operations, with their overloads."""
        self._constants: list[Any] = []
        """What the graph takes beside the inputs: tensors that were there before, and e.g. dtypes."""
        self._constant_names: list[str] = []
        self._known: dict[Any, str] = {}
        for index, tensor in enumerate(inputs):
            self._names[tensor] = f"%in{index}"
        self._inputs = len(inputs)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        schema = func._schema
        given = [
            args[index] if index < len(args) else (kwargs or {}).get(argument.name, argument.default_value)
            for index, argument in enumerate(schema.arguments)
        ]
        tensors = [x for x in tree_flatten(given)[0] if isinstance(x, Tensor)]
        changed = [
            x
            for argument, x in zip(schema.arguments, given, strict=True)
            if argument.alias_info is not None and argument.alias_info.is_write
        ]
        if any(x not in self._made for x in tree_flatten(changed)[0]):
            raise UnsupportedModuleError(f"{schema.name} changes what the function did not make.")
        result = func(*args, **(kwargs or {}))
        if tensors and not any(x in self._names for x in tensors):
            return result  # of what was there before: the same every time
        if func is torch.ops.aten._local_scalar_dense.default or _has_shape_of_values(func, given):
            raise UnsupportedModuleError(f"{schema.name} depends on values.")
        if func is torch.ops.aten.set_.source_Storage_storage_offset:
            schema = torch.ops.aten.set_.source_Tensor_storage_offset._schema
            given[1] = self._tensor_of(given[1])
        self._write(schema, given, result)
        return result

    def _tensor_of(self, storage: Any) -> Tensor:
        """Of the function's, the one with a storage that `Tensor.set_` takes: graphs know no storages."""
        for tensor in list(self._names.keys()):
            # of one dimension, as the call wants it: all elements of the storage in a row
            is_row = tensor.layout is torch.strided and not tensor.is_mkldnn and tensor.dim() == 1
            if is_row and tensor.untyped_storage()._cdata == storage._cdata:
                return tensor
        raise UnsupportedModuleError("A tensor takes a storage of unknown origin.")

    def _write(self, schema: Any, given: Sequence[Any], result: Any) -> None:
        values = [
            self._value(value, argument.type) for value, argument in zip(given, schema.arguments, strict=True)
        ]
        call = f"{schema.name}({', '.join(values)})"
        self._operators.append(str(schema).partition("(")[0])
        outputs = list(result) if isinstance(result, (tuple, list)) else [result]
        names = [self._name() for _ in outputs]
        typed = ", ".join(f"{name} : Tensor" for name in names)
        if len(schema.returns) == 1 and isinstance(schema.returns[0].type, torch.ListType):
            several = self._name()
            self._lines += [f"{several} : Tensor[] = {call}", f"{typed} = prim::ListUnpack({several})"]
        else:
            self._lines.append(f"{typed} = {call}" if schema.returns else call)
        is_view = any(
            returned.alias_info is not None and not returned.alias_info.is_write
            for returned in schema.returns
        )
        if is_view:
            is_view = any(isinstance(x, Tensor) and x not in self._made for x in given)
        for name, output in zip(names, outputs, strict=True):
            if isinstance(output, Tensor):
                self._names[output] = name
                if not is_view:
                    self._made[output] = True

    def callable(self, outputs: Sequence[Tensor]) -> Callable[..., Any]:
        """What was recorded, with these results."""
        names = [self._tensor(output) for output in outputs]
        inputs = [f"%in{index} : Tensor" for index in range(self._inputs)]
        types = ", ".join("Tensor" for _ in names)
        text = "\n  ".join(
            [
                f"graph({', '.join([*inputs, *self._constant_names])}):",
                *self._lines,
                f"%results : ({types}) = prim::TupleConstruct({', '.join(names)})",
                "return (%results)",
            ]
        )
        graph = torch._C.parse_ir(text)
        # the text names no overloads: the graph has chosen them by the types of the arguments
        nodes = [node for node in graph.nodes() if not node.kind().startswith("prim::")]
        for node, name in zip(nodes, self._operators, strict=True):
            # numbers arrive here as what they are
            same = (name, name.replace(".Tensor", ".Scalar"), name.replace(".out", ".Scalar_out"))
            if node.schema().partition("(")[0] not in same:
                raise UnsupportedModuleError(f"PyTorch's interpreter takes {name} for another operator.")
        function = torch._C._create_function_from_graph("recorded", graph)
        constants = tuple(self._constants)

        def run(*tensors: Tensor) -> Any:
            # as it stands: the interpreter's own optimizations take longer than they save
            with torch.jit.optimized_execution(False):  # type: ignore[attr-defined]
                return function(*tensors, *constants)

        return run

    def _name(self) -> str:
        self._count += 1
        return f"%v{self._count}"

    def _line(self, kind: str, node: str) -> str:
        """The name of a value; that of an equal one before it."""
        key = (kind, node)
        if key not in self._known:
            self._known[key] = self._name()
            self._lines.append(f"{self._known[key]} : {kind} = {node}")
        return self._known[key]

    def _tensor(self, tensor: Tensor) -> str:
        name = self._names.get(tensor)
        return self._constant(tensor, "Tensor", id(tensor)) if name is None else str(name)

    def _constant(self, value: Any, kind: str, key: Any) -> str:
        if (kind, key) not in self._known:
            self._known[kind, key] = f"%c{len(self._constants)}"
            self._constants.append(value)
            self._constant_names.append(f"{self._known[kind, key]} : {kind}")
        return self._known[kind, key]

    def _value(self, value: Any, kind: Any) -> str:
        """An argument of an operation."""
        while isinstance(kind, torch.OptionalType):
            kind = kind.getElementType()
        if value is None:
            return self._line("NoneType", "prim::Constant()")
        if isinstance(value, Tensor):
            return self._tensor(value)
        if isinstance(value, (list, tuple)):
            element = kind.getElementType()
            values = [self._value(v, element) for v in value]
            return self._line(f"{_type_name(element)}[]", f"prim::ListConstruct({', '.join(values)})")
        if isinstance(value, bool):
            return self._line("bool", f"prim::Constant[value={int(value)}]()")
        if isinstance(value, (int, float)):
            if isinstance(value, int) and not isinstance(kind, torch.FloatType):
                return self._line("int", f"prim::Constant[value={value}]()")
            if not math.isfinite(value):
                return self._constant(float(value), "float", repr(value))
            return self._line("float", f"prim::Constant[value={float(value)!r}]()")
        if isinstance(value, str) and (value.isidentifier() or not value):
            return self._line("str", f'prim::Constant[value="{value}"]()')
        if isinstance(value, (torch.dtype, torch.layout, torch.memory_format)):
            return self._constant(value, "int", str(value))
        if isinstance(value, torch.device):
            return self._line("Device", f'prim::Constant[value="{value}"]()')
        raise UnsupportedModuleError(f"An operation takes a {type(value).__name__}.")


def _type_name(kind: Any) -> str:
    if isinstance(kind, torch.OptionalType):
        return f"{_type_name(kind.getElementType())}?"
    if isinstance(kind, torch.ListType):
        return f"{_type_name(kind.getElementType())}[]"
    names = {"IntType": "int", "SymIntType": "int", "FloatType": "float", "NumberType": "Scalar"}
    names |= {"BoolType": "bool", "StringType": "str", "TensorType": "Tensor"}
    return names.get(kind.kind(), str(kind))


def _has_shape_of_values(func: Any, args: Sequence[Any]) -> bool:
    """Whether how much comes out depends on values; picking by integers does not."""
    if torch.Tag.dynamic_output_shape not in func.tags:
        return False
    picked_by = args[1] if len(args) > 1 and isinstance(args[1], (list, tuple)) else [args[0]]
    return not all(i is None or i.dtype is torch.int64 for i in picked_by)


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
        self._function = function
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
            return self._function(*args, **kwargs)
        kind = self._kind_of(leaves, spec)
        if kind is not None and kind.is_trusted:
            assert kind.recording is not None
            return _rebuilt(kind, kind.recording(*tensors))
        if kind is None or kind.is_refused or not _MAY_TRY.get():
            return self._function(*args, **kwargs)
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
        result = self._function(*args, **kwargs)
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
        for name in [name for name, value in vars(owner).items() if isinstance(value, Recorded)]:
            delattr(owner, name)


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
