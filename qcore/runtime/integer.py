"""Products of 8-bit integers through oneDNN: unsigned activations, signed weights, exact 32-bit sums.

Processors without VNNI add pairs of products in 16 bits, which overflow for full 8-bit operands. What fits is
exact: two products of the largest activation and the largest weight within 32767 (6 x 6, 7 x 7 and 8 x 6 bits
do). Weights enter as code minus zero point, so no correction is needed where that fits into a signed byte.
Where it does not (8 bits, zero point off the middle), a weight becomes the sum of two bytes, and the input
is laid down twice, one beside the other.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from qcore.runtime.convolution import Layouts

_PAIR_LIMIT = 32767
_LEAST, _MOST = -256, 254
"""What two signed bytes reach."""
_NO_ACTIVATION: tuple[str, list[float], str] = ("none", [], "")


@functools.cache
def has_integer_kernels() -> bool:
    """True when this torch and processor have oneDNN's quantized linear and convolution, and they are
    right."""
    if not torch.backends.mkldnn.is_available():
        return False
    try:
        codes = torch.full((2, 16), 63, dtype=torch.uint8)
        weight = torch.full((8, 16), -63, dtype=torch.int8)
        product = IntegerMatrix(weight, torch.ones(8), None, 2).multiply(codes, 1.0, 3)
        image = codes.view(1, 2, 4, 4).contiguous(memory_format=torch.channels_last)
        kernel = weight.view(8, 2, 8, 1)[:, :, :1].contiguous()
        filtered = IntegerConv(kernel, torch.ones(8), None, 1, 0, 1).real(image, 1.0, 3)
        expected = torch.full((8,), 60.0 * -63)
        return torch.equal(product[0], 16 * expected) and torch.equal(filtered[0, :, 0, 0], 2 * expected)
    except (AttributeError, RuntimeError, TypeError):
        return False


@functools.cache
def sums_full_bytes() -> bool:
    """True when products of full 8-bit operands are exact too (processors with VNNI)."""
    if not has_integer_kernels():
        return False
    codes = torch.full((4, 64), 255, dtype=torch.uint8)
    weight = torch.full((16, 64), 127, dtype=torch.int8)
    product = IntegerMatrix(weight, torch.ones(16), None, 4).multiply(codes, 1.0, 0)
    return torch.equal(product, torch.full((4, 16), 64.0 * 255 * 127))


@functools.cache
def has_plain_byte_product() -> bool:
    """True when full bytes may also be multiplied by a matrix that was not re-laid, exactly."""
    if not sums_full_bytes():
        return False
    codes = torch.full((4, 64), 255, dtype=torch.uint8)
    right_kn = torch.full((64, 16), -127, dtype=torch.int8)
    try:
        matrices = [IntegerMatrix(m, torch.ones(16), None) for m in (right_kn.t(), right_kn.t().contiguous())]
        products = [matrix.multiply(codes, 1.0, 3) for matrix in matrices]
    except (AttributeError, RuntimeError, TypeError):
        return False
    return all(torch.equal(product, torch.full((4, 16), -127.0 * 64 * 252)) for product in products)


def fits(largest_activation: int, codes: Tensor, groups: int = 1) -> bool:
    """Whether integer kernels compute a layer with these centred weight codes exactly on this machine."""
    if not has_integer_kernels():
        return False
    if _are_bytes(codes) and _sums_fit(largest_activation, int(codes.abs().max())):
        return True
    return groups == 1 and sums_full_bytes() and int(codes.max()) <= _MOST and int(codes.min()) >= _LEAST


def _are_bytes(codes: Tensor) -> bool:
    return codes.dtype is torch.int8 or (int(codes.min()) >= -128 and int(codes.max()) <= 127)


def _as_bytes(codes: Tensor) -> Tensor:
    """int8 codes; where they do not fit, two of them that add up, the second behind the first in axis 1."""
    if _are_bytes(codes):
        return codes.to(torch.int8)
    first = codes.clamp(-128, 127)
    return torch.cat([first, codes - first], dim=1).to(torch.int8)


def is_exact(largest_activation: int, largest_weight: int) -> bool:
    """Whether integer kernels compute such operands without overflow on this machine."""
    if largest_weight > 127 or not has_integer_kernels():
        return False
    return _sums_fit(largest_activation, largest_weight)


def _sums_fit(largest_activation: int, largest_weight: int) -> bool:
    return 2 * largest_activation * largest_weight <= _PAIR_LIMIT or sums_full_bytes()


class IntegerMatrix:
    """A signed byte matrix (n, k), to be multiplied from the left by unsigned bytes (m, k).

    Args:
        weight_nk: within -256 .. 254.
        scale_n: one element, or one a row of the matrix.
        bias_n: added to the scaled sums.
        rows_hint: rows m to expect; the matrix is re-laid for them, which takes as long as dozens of products
            with it. None leaves it as it lies, for a matrix that soon makes room for another.
    """

    def __init__(
        self, weight_nk: Tensor, scale_n: Tensor, bias_n: Tensor | None, rows_hint: int | None = None
    ) -> None:
        bytes_nk = _as_bytes(weight_nk)
        self.twice = bytes_nk.shape[1] > weight_nk.shape[1]
        if rows_hint is not None:
            shape = [rows_hint, bytes_nk.shape[1]]
            self.packed = torch.ops.onednn.qlinear_prepack(bytes_nk.contiguous(), shape)
        elif bytes_nk.t().is_contiguous():
            self.packed = bytes_nk.t().to_mkldnn()
        else:
            self.packed = bytes_nk.to_mkldnn().transpose(0, 1)  # oneDNN transposes bytes ten times as fast
        self.scale = scale_n.float()
        self.zero_point = torch.zeros(len(scale_n), dtype=torch.int64)
        self.bias = None if bias_n is None else bias_n.float()

    def multiply(
        self,
        codes_mk: Tensor,
        scale: float,
        zero_point: int,
        activation: str = "none",
        into: tuple[float, int] | None = None,
    ) -> Tensor:
        """``activation(scale (codes - zero_point) @ matrix^T + bias)``, float32 (m, n).

        Args:
            codes_mk: uint8.
            scale: of the codes.
            zero_point: of the codes.
            activation: ``none``, ``relu`` or ``gelu``.
            into: scale and zero point; the result is then rounded to uint8 codes with them.
        """
        algorithm = "none" if activation == "gelu" else ""
        out_scale, out_zero, out_dtype = (1.0, 0, torch.float32) if into is None else (*into, torch.uint8)
        codes_mk = torch.cat([codes_mk, codes_mk], dim=1) if self.twice else codes_mk
        product: Tensor = torch.ops.onednn.qlinear_pointwise(
            codes_mk, scale, zero_point, self.packed, self.scale, self.zero_point, self.bias,
            out_scale, out_zero, out_dtype, activation, [], algorithm,
        )  # fmt: skip
        return product


class IntegerConv:
    """A convolution with signed byte weights, on channels-last maps of unsigned bytes.

    Args:
        weight_oikk: integers within -256 .. 254; within -127 .. 127 with groups.
        scale_o: of the weights, one an output channel.
        bias_o: added to the scaled sums.
    """

    def __init__(
        self,
        weight_oikk: Tensor,
        scale_o: Tensor,
        bias_o: Tensor | None,
        stride: int,
        padding: int,
        groups: int,
    ) -> None:
        self.weight, self.scale = _as_bytes(weight_oikk).contiguous(), scale_o.float()
        self.twice = self.weight.shape[1] > weight_oikk.shape[1]
        self.zero_point = torch.zeros(len(scale_o), dtype=torch.int64)
        self.bias = None if bias_o is None else bias_o.float()
        self._geometry = ([stride] * 2, [padding] * 2, [1, 1], groups)
        self._layouts = Layouts()

    def _prepared(self, shape: tuple[int, ...], zero_point: int) -> Tensor:
        return self._layouts.get(
            (shape, zero_point),
            lambda: torch.ops.onednn.qconv_prepack(
                self.weight, self.scale, 1.0, zero_point, *self._geometry, list(shape)
            ),
        )

    def real(
        self, codes_bchw: Tensor, scale: float, zero_point: int, residual_bchw: Tensor | None = None
    ) -> Tensor:
        """``scale (codes - zero_point) * weight + bias [+ residual]`` in float32; padding stands for zero."""
        codes_bchw = torch.cat([codes_bchw, codes_bchw], dim=1) if self.twice else codes_bchw
        packed = self._prepared(tuple(codes_bchw.shape), zero_point)
        result: Tensor = torch.ops.onednn.qconv2d_pointwise(
            codes_bchw, scale, zero_point, packed, self.scale, self.zero_point, self.bias, *self._geometry,
            1.0, 0, torch.float32, *_NO_ACTIVATION,
        )  # fmt: skip
        return result if residual_bchw is None else result.add_(residual_bchw)

    def codes(self, codes_bchw: Tensor, scale: float, zero_point: int, highest: float) -> Tensor:
        """The result rounded to bytes after clamping it to 0 .. ``highest``.

        The scale of the codes that leave must be folded into the weights' scales and the bias.
        """
        codes_bchw = torch.cat([codes_bchw, codes_bchw], dim=1) if self.twice else codes_bchw
        packed = self._prepared(tuple(codes_bchw.shape), zero_point)
        result: Tensor = torch.ops.onednn.qconv2d_pointwise(
            codes_bchw, scale, zero_point, packed, self.scale, self.zero_point, self.bias, *self._geometry,
            1.0, 0, torch.uint8, "hardtanh", [0.0, highest], "",
        )  # fmt: skip
        return result
