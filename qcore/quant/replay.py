"""Replay one stage of a model on recorded inputs, up to the unit that is being fitted.

Units are fitted in the order data flows, so everything before a unit is final. The blocks of a stage form a
chain: the trunk's blocks, the layers of the memory attention, the layers of the decoder's transformer. Of
every recorded call the output of the last finished block is kept, in fp16, and a replay goes on from there:
each block runs once a call, however many units follow it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn

from qcore.quant.rollout import StageCall
from qcore.quant.units import Unit, UnitCall, compact, cut

_CHAINS = ("trunk.blocks", "layers", "transformer.layers")


class _CapturedError(Exception):
    """Ends a stage's forward once what was wanted has been seen."""


class StageReplay:
    """One stage of one model with its recorded calls; units must be asked for in order."""

    def __init__(self, model: nn.Module, stage: str, calls: Sequence[StageCall]) -> None:
        self._model, self._stage, self._calls = model, model.get_submodule(stage), calls
        self._prefix, self._blocks, self._needed_later = _chain(self._stage, stage)
        self._outputs: dict[int, list[Any]] = {}
        """Outputs by block and call: of the last finished block, and of those read again after the chain."""
        self._finished = 0

    @torch.no_grad()
    def capture(self, unit: Unit, seed: int) -> list[UnitCall]:
        """The unit's input of every call, cut to `Unit.sampling`.

        Cuts depend on the clip and the seed only, so that both models and all frames of a clip give the same
        part.
        """
        self.advance(unit)
        captured: list[UnitCall] = []
        where = self._calls[0]

        def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            call = UnitCall(where.clip, where.frame, args, kwargs)
            captured.append(cut(call, unit.sampling, seed + 7919 * where.clip).map(compact))
            raise _CapturedError

        handle = self._model.get_submodule(unit.entry).register_forward_pre_hook(before, with_kwargs=True)
        try:
            for index, call in enumerate(self._calls):
                where = call
                self._run(index)
        finally:
            handle.remove()
        return captured

    @torch.no_grad()
    def advance(self, unit: Unit) -> None:
        """Compute the outputs of all blocks before the unit's own."""
        while self._finished < self._block_of(unit):
            self._outputs[self._finished] = self._finish(self._finished)
            before = self._finished - 1
            if before not in self._needed_later:
                self._outputs.pop(before, None)
            self._finished += 1

    def _block_of(self, unit: Unit) -> int:
        """Index of the block that holds the unit; past the end for what comes after the chain."""
        if not unit.name.startswith(self._prefix):
            return len(self._blocks)
        return int(unit.name[len(self._prefix) :].partition(".")[0])

    def _finish(self, block: int) -> list[Any]:
        outputs: list[Any] = []

        def after(module: nn.Module, args: Any, out: Any) -> None:
            outputs.append(_map(out, compact))
            raise _CapturedError

        handle = self._blocks[block].register_forward_hook(after)
        try:
            for index in range(len(self._calls)):
                self._run(index)
        finally:
            handle.remove()
        return outputs

    def _run(self, index: int) -> None:
        """The stage's forward on one call, finished blocks replaced by what they gave."""
        call = self._calls[index]
        with ExitStack() as stack:
            for number, block in enumerate(self._blocks[: self._finished]):
                outputs = self._outputs.get(number)
                stack.enter_context(_answering(block, None if outputs is None else outputs[index]))
            with suppress(_CapturedError):
                self._stage(*call.args, **call.kwargs)


def _chain(stage: nn.Module, name: str) -> tuple[str, list[nn.Module], set[int]]:
    """(prefix of the blocks' names, the blocks, which of them are read again after the chain)."""
    for path in _CHAINS:
        parent = stage
        for part in path.split("."):
            parent = getattr(parent, part, None)  # type: ignore[assignment]
            if parent is None:
                break
        if isinstance(parent, nn.ModuleList):
            trunk: Any = getattr(stage, "trunk", None)
            levels = getattr(trunk, "output_blocks", None) or getattr(trunk, "stage_ends", None) or ()
            return f"{name}.{path}.", list(parent), set(levels)
    return f"{name}.?", [], set()


@contextmanager
def _answering(block: nn.Module, output: Any) -> Iterator[None]:
    """``block`` gives ``output`` without computing; None: it hands its input on, which nobody reads."""

    def answer(*args: Any, **kwargs: Any) -> Any:
        if output is not None:
            return _map(output, Tensor.float)
        first, second, *_ = (*args, *kwargs.values(), None)
        return (first, second) if "queries" in kwargs else first

    block.forward = answer
    try:
        yield
    finally:
        del block.forward


def _map(value: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """``function`` on a tensor or on each of a tuple."""
    if isinstance(value, Tensor):
        return function(value)
    return tuple(_map(item, function) for item in value)
