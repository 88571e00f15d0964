"""Affine quantization, the paper's Eq. 1: the two maps between real numbers and k-bit integers.

    x_int = clamp(round(x / s) + z, 0, 2^k - 1)        x_hat = s (x_int - z)

Codes are unsigned, zero is always exactly representable, ``round`` goes half to even. ``x / s`` is computed
as ``x * (1 / s)``, as torch's own kernels do, so that results agree with them bit for bit. Nothing here
knows about modules, observers or training.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from qcore.quant.errors import QuantizationError as QuantizationError

MIN_BITS, MAX_BITS = 2, 8
SMALLEST_SCALE = 1e-8


def quant_max(bits: int) -> int:
    """Largest code of ``bits`` bits, 3..255.

    Raises:
        QuantizationError: bits outside 2..8.
    """
    if not MIN_BITS <= bits <= MAX_BITS:
        raise QuantizationError(f"Bit widths from {MIN_BITS} to {MAX_BITS} are possible, not {bits}.")
    return (1 << bits) - 1


def qparams_from_range(lo: Tensor, hi: Tensor, bits: int, symmetric: bool = False) -> tuple[Tensor, Tensor]:
    """Scale (fp32, > 0) and zero point (int32, 0..2^k-1) that cover [lo, hi]; any shape, one pair an element.

    Asymmetric: the range is widened to hold zero. Symmetric: codes spread around 2^(k-1), so zero keeps its
    own code and the largest magnitude is representable.
    """
    largest = quant_max(bits)
    lo, hi = lo.float().clamp(max=0.0), hi.float().clamp(min=0.0)
    if symmetric:
        half = 1 << (bits - 1)
        scale = torch.maximum(-lo, hi) / (half - 1)
        return scale.clamp(min=SMALLEST_SCALE), torch.full_like(scale, half, dtype=torch.int32)
    scale = ((hi - lo) / largest).clamp(min=SMALLEST_SCALE)
    return scale, torch.round(-lo / scale).clamp(0, largest).to(torch.int32)


def along_axis(per_channel: Tensor, ndim: int, axis: int | None) -> Tensor:
    """View (C,) so that it broadcasts along ``axis`` of an ``ndim``-dimensional tensor; scalars pass
    through.
    """
    if axis is None:
        return per_channel
    shape = [1] * ndim
    shape[axis] = -1
    return per_channel.view(shape)


def quantize(x: Tensor, scale: Tensor, zero_point: Tensor, bits: int, axis: int | None = None) -> Tensor:
    """Codes of ``x`` as uint8, same shape. ``axis`` names the channel dimension of (C,) parameters."""
    s, z = along_axis(scale, x.ndim, axis), along_axis(zero_point, x.ndim, axis)
    return torch.clamp(torch.round(x * (1.0 / s)) + z, 0, quant_max(bits)).to(torch.uint8)


def dequantize(codes: Tensor, scale: Tensor, zero_point: Tensor, axis: int | None = None) -> Tensor:
    """Real values (fp32) of codes of any integer dtype."""
    s, z = along_axis(scale, codes.ndim, axis), along_axis(zero_point, codes.ndim, axis)
    return (codes.to(torch.float32) - z) * s


class _StraightThrough(torch.autograd.Function):
    """Fake quantization with the gradients of LSQ (Esser et al. 2020).

    d x_hat / d x = 1 inside the range and 0 outside (straight through the rounding);
    d x_hat / d s = round(x/s) - x/s inside, (0 - z) below, (2^k - 1 - z) above.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, scale: Tensor, zero_point: Tensor, bits: int, axis: int | None, grad_scale: float
    ) -> Tensor:
        s, inverse, low, high = _constants(scale, zero_point, bits, x, axis)
        ratio = x * inverse
        nearest = torch.round(ratio)
        step = torch.clamp(nearest, low, high)
        ctx.save_for_backward(ratio, step, nearest.eq_(step), scale)
        ctx.axis, ctx.grad_scale = axis, grad_scale
        return step * s

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = gradients
        ratio, step, inside, scale = ctx.saved_tensors
        grad_x, grad_s = grad * inside, None
        if ctx.needs_input_grad[1]:
            # sum of grad (round(x/s) - x/s) inside and of grad (code - z) outside
            slope = grad * step
            slope.addcmul_(grad_x, ratio, value=-1.0)
            if ctx.axis is None:
                grad_s = slope.sum().view(scale.shape)
            else:
                grad_s = slope.sum(dim=[d for d in range(grad.ndim) if d != ctx.axis % grad.ndim])
            grad_s = grad_s * ctx.grad_scale
        return grad_x if ctx.needs_input_grad[0] else None, grad_s, None, None, None, None


def _constants(
    scale: Tensor, zero_point: Tensor, bits: int, x: Tensor, axis: int | None
) -> tuple[Any, Any, Any, Any]:
    """Scale, 1 / scale, smallest and largest code minus zero point, shaped to broadcast.

    One scale for everything becomes plain numbers on the CPU, where they are faster than tensors; each is
    a float32 already, so nothing is rounded again.
    """
    s, z = along_axis(scale.detach(), x.ndim, axis), along_axis(zero_point, x.ndim, axis).to(scale.dtype)
    constants = s, 1.0 / s, -z, quant_max(bits) - z
    if scale.numel() == 1 and x.device.type == "cpu":
        return tuple(float(value) for value in constants)  # type: ignore[return-value]
    return constants


def _fake_quantize_kernel(
    x: Tensor, scale: Tensor, zero_point: Tensor, bits: int, axis: int | None
) -> Tensor:
    """Four plain passes in place, several times as fast on a CPU as torch's own fake-quantize kernels."""
    s, inverse, low, high = _constants(scale, zero_point, bits, x, axis)
    return (x * inverse).round_().clamp_(low, high).mul_(s)


def fake_quantize(
    x: Tensor,
    scale: Tensor,
    zero_point: Tensor,
    bits: int,
    axis: int | None = None,
    scale_gradient_normalised: bool = True,
) -> Tensor:
    """``dequantize(quantize(x))`` in one pass, differentiable in ``x`` (straight through) and ``scale``
    (LSQ).

    ``scale_gradient_normalised`` applies LSQ's factor 1 / sqrt(elements per scale * (2^k - 1)).
    """
    if not torch.is_grad_enabled() or not (x.requires_grad or scale.requires_grad):
        return _fake_quantize_kernel(x, scale, zero_point, bits, axis)
    factor = 1.0
    if scale_gradient_normalised:
        factor = (x.numel() / max(1, scale.numel()) * quant_max(bits)) ** -0.5
    result: Tensor = _StraightThrough.apply(x, scale, zero_point, bits, axis, factor)
    return result


def round_straight_through(x: Tensor) -> Tensor:
    """``round(x)`` whose gradient is 1."""
    return x + (torch.round(x) - x).detach()
