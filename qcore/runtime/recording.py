"""Functions of tensors as one call outside Python.

A recording is the list of operations that a call went through, as a graph of PyTorch's interpreter: it
computes the same, bit for bit, and Python's lock is free meanwhile. It can be made where the operations
depend on the kinds of the inputs (shapes, strides, dtypes) alone. A function that looks at values, or
changes what is not its own, is refused.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakIdKeyDictionary

from qcore.runtime.errors import UnsupportedModuleError


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


@dataclass(frozen=True, slots=True)
class _Signature:
    """What a recording needs of an operation's schema, which is slow to read."""

    name: str
    overloaded_name: str
    arguments: tuple[tuple[str, Any, Any, bool], ...]
    """Name, default, type, and whether the operation changes it."""
    returns_nothing: bool
    returns_list: bool
    gives_views: bool

    def given(self, args: Sequence[Any], kwargs: dict[str, Any]) -> list[Any]:
        """The values of all arguments, in the schema's order."""
        return [
            args[index] if index < len(args) else kwargs.get(name, default)
            for index, (name, default, _, _) in enumerate(self.arguments)
        ]


@functools.cache
def _signature_of(func: Any) -> _Signature:
    schema = func._schema
    writes = [a.alias_info is not None and a.alias_info.is_write for a in schema.arguments]
    arguments = tuple(
        (a.name, a.default_value, a.type, is_write)
        for a, is_write in zip(schema.arguments, writes, strict=True)
    )
    return _Signature(
        schema.name,
        str(schema).partition("(")[0],
        arguments,
        not schema.returns,
        len(schema.returns) == 1 and isinstance(schema.returns[0].type, torch.ListType),
        any(r.alias_info is not None and not r.alias_info.is_write for r in schema.returns),
    )


def _tensors_in(values: Sequence[Any]) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from _tensors_in(value)


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

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Nobody compiles a recording; to make sure of that, torch would load its compiler, for a second."""
        return False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        signature = _signature_of(func)
        given = signature.given(args, kwargs or {})
        tensors = list(_tensors_in(given))
        changed = [x for x, (*_, is_write) in zip(given, signature.arguments, strict=True) if is_write]
        if any(x not in self._made for x in _tensors_in(changed)):
            raise UnsupportedModuleError(f"{signature.name} changes what the function did not make.")
        result = func(*args, **(kwargs or {}))
        if tensors and not any(x in self._names for x in tensors):
            return result  # of what was there before: the same every time
        if func is torch.ops.aten._local_scalar_dense.default or _has_shape_of_values(func, given):
            raise UnsupportedModuleError(f"{signature.name} depends on values.")
        if func is torch.ops.aten.set_.source_Storage_storage_offset:
            signature = _signature_of(torch.ops.aten.set_.source_Tensor_storage_offset)
            given[1] = self._tensor_of(given[1])
        self._write(signature, given, result)
        return result

    def _tensor_of(self, storage: Any) -> Tensor:
        """Of the function's, the one with a storage that `Tensor.set_` takes: graphs know no storages."""
        for tensor in list(self._names.keys()):
            # of one dimension, as the call wants it: all elements of the storage in a row
            is_row = tensor.layout is torch.strided and not tensor.is_mkldnn and tensor.dim() == 1
            if is_row and tensor.untyped_storage()._cdata == storage._cdata:
                return tensor
        raise UnsupportedModuleError("A tensor takes a storage of unknown origin.")

    def _write(self, signature: _Signature, given: Sequence[Any], result: Any) -> None:
        values = [
            self._value(value, kind)
            for value, (_, _, kind, _) in zip(given, signature.arguments, strict=True)
        ]
        call = f"{signature.name}({', '.join(values)})"
        self._operators.append(signature.overloaded_name)
        outputs = list(result) if isinstance(result, (tuple, list)) else [result]
        names = [self._name() for _ in outputs]
        typed = ", ".join(f"{name} : Tensor" for name in names)
        if signature.returns_list:
            several = self._name()
            self._lines += [f"{several} : Tensor[] = {call}", f"{typed} = prim::ListUnpack({several})"]
        else:
            self._lines.append(call if signature.returns_nothing else f"{typed} = {call}")
        is_foreign = signature.gives_views and any(
            isinstance(x, Tensor) and x not in self._made for x in given
        )
        for name, output in zip(names, outputs, strict=True):
            if isinstance(output, Tensor):
                self._names[output] = name
                if not is_foreign:
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
