"""Compensated rounding (ours for this model; GPTQ, Frantar et al. 2023): each weight's rounding error is made
up for by the weights that are not rounded yet.

For a linear map with inputs x^ of the quantized prefix and outputs y of the original on its own inputs:

    W* = argmin |W* x^ - y|^2 + damping |W* - W|^2          (what rounding so far did is corrected first)
    for each column, largest inputs first: round it, and spread its error over the remaining columns so that
    |W* x^| changes least, by the inverse of H = mean x^ x^T.

The bias is the last column and never rounded, so it takes what no weight can. The values just before their
rounding become the layer's weight: *nearest* rounding of them is the compensated one, and learned rounding
(Eq. 3) starts from there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qcore.quant.fake_quantize import WeightQuantizer
from qcore.quant.layers import QuantizedLayer, is_depthwise
from qcore.quant.units import Unit, UnitCall, run

ROWS_PER_CALL = 1024
"""Positions of one recorded input that are looked at."""
DEPTHWISE_CALLS = 16
DAMPING = 0.01
"""Of the mean of H's diagonal, and as much again as there are columns a recorded row: keeps what the data
does not determine at the original weights. A prompt has a handful of tokens, and a layer that sees nothing
else was fitted to the calibration's own prompts without that (W4A4, boxes on images: 21.9 mAP in place of
27.1)."""


@torch.no_grad()
def compensate_unit(
    unit: Unit, quantized: Sequence[UnitCall], original: Sequence[UnitCall], observer: str
) -> None:
    """Replace the weights and biases of a unit's layers, one after the other in the order data flows.

    Layers of 8 bits and kinds that are not linear in a matrix (strided or grouped convolutions that are not
    depthwise) stay as they are. ``observer`` fixes the new weights' scales.
    """
    for name in _in_order(unit, quantized[0]):
        layer = unit.module.get_submodule(name) if name else unit.module
        assert isinstance(layer, QuantizedLayer)
        teacher = unit.teacher.get_submodule(name) if name else unit.teacher
        statistics = _Statistics(layer)
        # a depthwise filter has a few numbers only, and cutting its patches takes most of the time
        step = max(1, len(quantized) // DEPTHWISE_CALLS) if is_depthwise(layer.layer) else 1
        for index, (ours, theirs) in enumerate(zip(quantized[::step], original[::step])):
            inputs, _ = _seen(unit.module, layer, ours)
            _, outputs = _seen(unit.teacher, teacher, theirs)
            if layer.input_quantizer is not None:
                inputs = layer.input_quantizer(inputs)
            statistics.add(inputs, outputs, index)
        _compensate_layer(layer, statistics, observer)


def _in_order(unit: Unit, call: UnitCall) -> list[str]:
    """Names of the layers to treat in the order in which a forward runs them."""
    order: list[str] = []
    handles = []
    for name, module in unit.module.named_modules():
        if isinstance(module, QuantizedLayer) and _is_matrix(module) and module.weight_quantizer.bits < 8:
            handles.append(module.register_forward_pre_hook(lambda *_, name=name: order.append(name)))
    try:
        run(unit.module, call)
    finally:
        for handle in handles:
            handle.remove()
    return list(dict.fromkeys(order))


def _is_matrix(layer: QuantizedLayer) -> bool:
    inner = layer.layer
    if isinstance(inner, nn.Linear):
        return True
    if not isinstance(inner, nn.Conv2d) or inner.dilation != (1, 1):
        return False
    return is_depthwise(inner) or (inner.kernel_size == (1, 1) and inner.groups == 1)


def _seen(root: nn.Module, layer: nn.Module, call: UnitCall) -> tuple[Tensor, Tensor]:
    """What entered and left ``layer`` while ``root`` ran on a call."""
    found: list[tuple[Tensor, Tensor]] = []

    def watch(module: nn.Module, args: tuple[Any, ...], out: Tensor) -> None:
        found.append((args[0].detach().clone(), out.detach().clone()))  # activations work in place

    handle = layer.register_forward_hook(watch)
    try:
        run(root, call)
    finally:
        handle.remove()
    return found[0]


class _Statistics:
    """H (B, n+1, n+1) and the cross products with the outputs (B, R, n+1) of one layer, in double precision.

    B is 1 and R the output channels for a matrix; for a depthwise convolution B counts channels and R is 1.
    The last input is the constant 1 that a bias multiplies.
    """

    def __init__(self, layer: QuantizedLayer) -> None:
        self._layer = layer.layer
        self.h: Tensor | None = None
        self.cross: Tensor | None = None
        self.count = 0

    def add(self, inputs: Tensor, outputs: Tensor, seed: int) -> None:
        """Take in what entered (already rounded) and what the original gave."""
        x_bnp, y_brp = self._columns(inputs), self._targets(outputs)
        count = x_bnp.shape[-1]
        if count > ROWS_PER_CALL:
            keep = torch.randperm(count, generator=torch.Generator().manual_seed(seed))[:ROWS_PER_CALL]
            keep = keep.to(x_bnp.device)
            x_bnp, y_brp = x_bnp[..., keep], y_brp[..., keep]
        x_bnp = F.pad(x_bnp, (0, 0, 0, 1), value=1.0)
        h, cross = x_bnp @ x_bnp.mT, y_brp @ x_bnp.mT
        self.h = h.double() if self.h is None else self.h + h
        self.cross = cross.double() if self.cross is None else self.cross + cross
        self.count += x_bnp.shape[-1]

    def _columns(self, x: Tensor) -> Tensor:
        """(B, n, positions)."""
        layer = self._layer
        if isinstance(layer, nn.Linear):
            return x.reshape(-1, x.shape[-1]).T[None]
        assert isinstance(layer, nn.Conv2d)
        if layer.groups == 1:
            return x[..., :: layer.stride[0], :: layer.stride[1]].transpose(0, 1).flatten(1)[None]
        channels = x.shape[1]
        patches = F.unfold(x, layer.kernel_size, padding=layer.padding, stride=layer.stride)  # type: ignore[arg-type]
        patches = patches.unflatten(1, (channels, -1))
        return patches.permute(1, 2, 0, 3).flatten(2)

    def _targets(self, y: Tensor) -> Tensor:
        """(B, R, positions)."""
        if isinstance(self._layer, nn.Linear):
            return y.reshape(-1, y.shape[-1]).T[None]
        rows = y.transpose(0, 1).flatten(1)
        return rows[None] if self._layer.groups == 1 else rows[:, None]


def _compensate_layer(layer: QuantizedLayer, statistics: _Statistics, observer: str) -> None:
    assert statistics.h is not None and statistics.cross is not None
    h, cross = statistics.h / statistics.count, statistics.cross / statistics.count
    shape = layer.weight.shape
    batches, rows = cross.shape[:2]
    weight = layer.weight.reshape(batches, rows, -1).double()
    bias = layer.bias
    offset = torch.zeros(batches, rows) if bias is None else bias.reshape(batches, rows)
    if bias is None:  # no constant input
        h, cross = h[..., :-1, :-1], cross[..., :-1]
        start = weight
    else:
        start = torch.cat([weight, offset.double()[..., None]], dim=-1)
    columns = weight.shape[-1]
    damping = h.new_zeros(h.shape[:2])
    diagonal = h.diagonal(dim1=-2, dim2=-1)[:, :columns]
    weight_of_the_start = DAMPING + columns / statistics.count
    damping[:, :columns] = weight_of_the_start * diagonal.mean(dim=1, keepdim=True).clamp(min=1e-12)
    damped = h + torch.diag_embed(damping)
    best = torch.linalg.solve(damped, (cross + start * damping[:, None]).mT).mT
    layer.weight.copy_(best[..., :columns].reshape(shape))
    quantizer = layer.weight_quantizer
    quantizer.observe(layer.weight, observer)
    compensated = spread_errors(best, damped, columns, _rounder(quantizer, batches, rows))
    layer.weight.copy_(compensated[..., :columns].reshape(shape))
    if bias is not None:
        bias.copy_(compensated[..., columns].reshape(bias.shape))


def _rounder(quantizer: WeightQuantizer, batches: int, rows: int) -> Callable[[Tensor], Tensor]:
    """Nearest representable values of one column (B, R)."""
    scale = quantizer.scale.view(batches, rows).double()
    low = -quantizer.zero_point.view(batches, rows).double()
    high = low + (1 << quantizer.bits) - 1

    def nearest(column_br: Tensor) -> Tensor:
        return torch.clamp(torch.round(column_br / scale), low, high) * scale

    return nearest


def spread_errors(
    weight_brn: Tensor, h_bnn: Tensor, rounded_columns: int, nearest: Callable[[Tensor], Tensor]
) -> Tensor:
    """The weight as it stands when each column's turn to be rounded comes (B, R, n).

    Columns with the largest inputs go first; those after ``rounded_columns`` are never rounded and come last.

    Args:
        weight_brn: double precision.
        h_bnn: positive definite.
        rounded_columns: how many of the n columns are rounded.
        nearest: rounds one column (B, R).
    """
    diagonal = h_bnn.diagonal(dim1=-2, dim2=-1)[:, :rounded_columns].mean(dim=0)
    order = torch.cat(
        [
            diagonal.argsort(descending=True),
            torch.arange(rounded_columns, weight_brn.shape[-1], device=diagonal.device),
        ]
    )
    w = weight_brn[..., order].clone()
    inverse = torch.linalg.inv(h_bnn[:, order][:, :, order])
    # row i of the upper factor holds how an error in column i is best spread over the columns after it
    upper = torch.linalg.cholesky(inverse, upper=True)
    for i in range(rounded_columns):
        error = (w[..., i] - nearest(w[..., i])) / upper[:, i, i, None]
        w[..., i + 1 :] -= error[..., None] * upper[:, None, i, i + 1 :]
    result = torch.empty_like(w)
    result[..., order] = w
    return result
