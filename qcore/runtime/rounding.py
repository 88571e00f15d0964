"""What an activation quantizer does to a tensor, in as few passes as the CPU allows.

A kernel never needs the rounded real value s (x_int - z): it multiplies integers and scales its result once.
So a `Rounding` gives the integers, as bytes for integer kernels (x_int) or as floats around zero (x_int - z)
for the others. 8-bit integers are exact in bfloat16 too.
"""

from __future__ import annotations

import functools
import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from qcore.quant.affine import quant_max
from qcore.quant.fake_quantize import ActivationQuantizer

_LARGE = 1 << 18
"""Elements from which a detour over bytes, in two passes, beats three passes over floats."""


@functools.cache
def has_fast_bytes() -> bool:
    """True when torch can still turn floats into bytes in one pass, five times as fast as in steps.

    The call is deprecated, and its warning goes once here instead of to the user.
    """
    probe = torch.tensor([-9.0, 0.26, 0.74, 999.0])
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            unsigned = _bytes_in_one_pass(probe, 0.5, 3).tolist() == [0, 4, 4, 255]
            return unsigned and _signed_in_one_pass(probe, 0.5, -3).tolist() == [-21, -2, -2, 127]
    except (AttributeError, RuntimeError, TypeError):
        return False


def _bytes_in_one_pass(x: Tensor, scale: float, zero_point: int) -> Tensor:
    return _codes_of(torch.quantize_per_tensor(x, scale, zero_point, torch.quint8), torch.uint8)


def _signed_in_one_pass(x: Tensor, scale: float, zero_point: int) -> Tensor:
    return _codes_of(torch.quantize_per_tensor(x, scale, zero_point, torch.qint8), torch.int8)


def _codes_of(bytes_: Tensor, dtype: torch.dtype) -> Tensor:
    """What a new tensor of bytes or quantized values holds, where it lies; ``int_repr`` would copy it."""
    row = bytes_.as_strided([bytes_.numel()], [1])
    codes: Tensor = torch.ops.aten.set_.source_Tensor_storage_offset(
        torch.empty(0, dtype=dtype), row, 0, bytes_.size(), bytes_.stride()
    )
    return codes


@dataclass(frozen=True, slots=True, eq=False)
class Rounding:
    """Eq. 1 with fixed parameters: one scale and zero point, or one per channel.

    Its methods take floats, or what they make of them already: uint8 codes (per tensor only).
    """

    scale: float | Tensor
    zero_point: int | Tensor
    largest: int
    """The highest code, 2^bits - 1."""

    @classmethod
    def of(cls, quantizer: ActivationQuantizer, ndim: int = 2) -> Rounding:
        """The parameters of a quantizer of tensors with ``ndim`` dimensions."""
        if quantizer.axis is None:
            return cls(float(quantizer.scale), int(quantizer.zero_point), quant_max(quantizer.bits))
        shape = [1] * ndim
        shape[quantizer.axis] = -1
        scale, zero_point = quantizer.scale.float().view(shape), quantizer.zero_point.view(shape)
        return cls(scale, zero_point, quant_max(quantizer.bits))

    @property
    def is_per_tensor(self) -> bool:
        """Whether one scale serves the whole tensor."""
        return isinstance(self.scale, float)

    @property
    def reach(self) -> int:
        """The largest magnitude of x_int - z."""
        zero = torch.as_tensor(self.zero_point)
        return int(torch.maximum(zero, self.largest - zero).max())

    def bytes(self, x: Tensor) -> Tensor:
        """x_int as uint8 in the layout of ``x``; per tensor only."""
        assert isinstance(self.scale, float)
        assert isinstance(self.zero_point, int)
        if x.dtype is torch.uint8:
            return x
        x = x.float()
        if x.device.type != "cpu" or not has_fast_bytes():
            return self._centred_in_steps(x).add_(self.zero_point).to(torch.uint8)
        codes = _bytes_in_one_pass(x, self.scale, self.zero_point)
        return codes if self.largest == 255 else codes.clamp_(max=self.largest)

    def signed_bytes(self, x: Tensor) -> Tensor:
        """x_int - z as int8; only where `reach` is at most 127."""
        if x.dtype is torch.uint8:
            return _codes_of(x.sub(int(self.zero_point)), torch.int8)  # wraps around to what is meant
        if x.device.type != "cpu" or not has_fast_bytes():
            return self._centred_in_steps(x).to(torch.int8)
        if not isinstance(self.scale, float):
            return _signed_in_one_pass(self._centred_in_steps(x), 1.0, 0)
        zero = int(self.zero_point)
        return _signed_in_one_pass(x.float(), self.scale, 0).clamp_(-zero, self.largest - zero)

    def shifted_bytes(self, x: Tensor, shift: int) -> Tensor:
        """x_int - shift as int8 for a shift that makes all codes fit; per tensor only."""
        assert isinstance(self.scale, float)
        if x.dtype is torch.uint8:
            return _codes_of(x.sub(shift), torch.int8)
        if x.device.type != "cpu" or not has_fast_bytes():
            return self._centred_in_steps(x).add_(int(self.zero_point) - shift).to(torch.int8)
        codes = _signed_in_one_pass(x.float(), self.scale, int(self.zero_point) - shift)
        return codes.clamp_(-shift, self.largest - shift)

    def centred(self, x: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """x_int - z, a new tensor of floats, which bfloat16 holds exactly too."""
        if x.dtype is torch.uint8:
            if self.reach <= 127:
                return self.signed_bytes(x).to(dtype)
            return x.to(dtype).sub_(int(self.zero_point))
        if x.numel() >= _LARGE and self.is_per_tensor and x.device.type == "cpu" and has_fast_bytes():
            if self.reach <= 127:
                return self.signed_bytes(x).to(dtype)
            return self.bytes(x).to(dtype).sub_(int(self.zero_point))
        return self._centred_in_steps(x).to(dtype)

    def _centred_in_steps(self, x: Tensor) -> Tensor:
        if isinstance(self.scale, Tensor):
            low = -torch.as_tensor(self.zero_point)
            return torch.clamp(x.float().mul(1.0 / self.scale).round_(), low, self.largest + low)
        zero = int(self.zero_point)
        return x.float().mul(1.0 / self.scale).round_().clamp_(-zero, self.largest - zero)

    def real(self, x: Tensor) -> Tensor:
        """s (x_int - z), a new float32 tensor."""
        return self.centred(x).mul_(self.scale)
