"""Linear layers with weights re-laid once for the CPU's GEMM, or as they lie, in float32 or bfloat16."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qcore.runtime.attention import PackedMatrix


class PackedLinear:
    """``activation(x W^T + b)`` in one dtype; weights are kept once, in the layout of the kernel.

    With ``packed`` off the layout is the weight's own, which BLAS takes.
    """

    def __init__(
        self,
        weight_oi: Tensor,
        bias_o: Tensor | None,
        dtype: torch.dtype,
        rows_hint: int,
        gelu: bool = False,
        packed: bool = True,
    ) -> None:
        self.dtype = dtype
        self.gelu = gelu
        bias_o = None if bias_o is None else bias_o.to(dtype)
        self.matrix = PackedMatrix(weight_oi.to(dtype), bias_o, rows_hint, packed)

    @classmethod
    def of(cls, linear: nn.Linear, dtype: torch.dtype, rows_hint: int, gelu: bool = False) -> PackedLinear:
        """The same function as a plain ``nn.Linear``, followed by GELU where asked."""
        bias = None if linear.bias is None else linear.bias.detach()
        return cls(linear.weight.detach(), bias, dtype, rows_hint, gelu)

    def __call__(self, x: Tensor) -> Tensor:
        """Map (..., in) of any float dtype to (..., out) in the layer's dtype."""
        flat = x.reshape(-1, x.shape[-1]).to(self.dtype)
        if not self.gelu:
            out = self.matrix.multiply(flat)
        elif self.matrix.packed:
            out = torch.ops.mkldnn._linear_pointwise(
                flat, self.matrix.matrix, self.matrix.bias, "gelu", [], "none"
            )
        else:
            out = F.gelu(self.matrix.multiply(flat))
        return out.view(*x.shape[:-1], -1)
