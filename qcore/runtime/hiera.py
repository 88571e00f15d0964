"""SAM 2's Hiera trunk rewritten for speed at inference; the same function of the same parameters.

What upstream spends besides the products themselves, and what is done here: the bicubic position table is
computed once per size; windows are cut and joined with one copy each; window attention is a batched product
(the fused kernel is slow for many small windows), global attention uses the blocked one; GELU is fused into
its linear; query pooling is a maximum of four slices. Residual sums stay in float32 whatever the products
use.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from sam2.modeling.backbones.hieradet import Hiera, MultiScaleBlock
from torch import Tensor, nn

from qcore.quant.attention import QuantizedMultiScaleAttention
from qcore.quant.layers import QuantizedLayer
from qcore.runtime.attention import AttentionWay, attend
from qcore.runtime.choice import Case, Choice, Way
from qcore.runtime.errors import UnsupportedModuleError
from qcore.runtime.quantized_attention import (
    ProductRoundings,
    ProductWays,
    attend_rounded,
    attend_small,
)
from qcore.runtime.quantized_layers import (
    MEASURED_ROWS,
    LinearKernel,
    QuantizedLinear,
    check_final,
    feed_forward,
    linear_kernel,
    runs_on_integers,
)
from qcore.runtime.rounding import Rounding

SMALL_WINDOW = 1024
"""Up to this many tokens, all scores of a window fit in the cache and batched products win."""


def _pool2(x_bhwc: Tensor) -> Tensor:
    """2x2 maximum over the grid."""
    rows = torch.maximum(x_bhwc[:, 0::2], x_bhwc[:, 1::2])
    return torch.maximum(rows[:, :, 0::2], rows[:, :, 1::2])


def _cut_windows(x_bhwc: Tensor, side: int) -> tuple[Tensor, tuple[int, int]]:
    """Windows (batch * count, side, side, channels) of the zero-padded grid, and the padded size."""
    batch, height, width, channels = x_bhwc.shape
    pad_h, pad_w = -height % side, -width % side
    if pad_h or pad_w:
        x_bhwc = F.pad(x_bhwc, (0, 0, 0, pad_w, 0, pad_h))
    height, width = height + pad_h, width + pad_w
    grid = x_bhwc.view(batch, height // side, side, width // side, side, channels)
    return grid.permute(0, 1, 3, 2, 4, 5).reshape(-1, side, side, channels), (height, width)


def _join_windows(windows: Tensor, side: int, padded: tuple[int, int], size: tuple[int, int]) -> Tensor:
    height, width = padded
    grid = windows.view(-1, height // side, width // side, side, side, windows.shape[-1])
    joined = grid.permute(0, 1, 3, 2, 4, 5).reshape(-1, height, width, windows.shape[-1])
    return joined[:, : size[0], : size[1]]


class _FloatOperands:
    """Queries, keys and values from one linear layer; as codes where roundings are given."""

    def __init__(self, kernel: LinearKernel, roundings: Sequence[Rounding] = ()) -> None:
        self.kernel, self.roundings = kernel, roundings

    def __call__(self, x_nc: Tensor) -> Sequence[Tensor]:
        """(n, channels) three times."""
        parts = self.kernel(x_nc).chunk(3, dim=-1)
        if not self.roundings:
            return parts
        return [rounding.bytes(part) for rounding, part in zip(self.roundings, parts, strict=True)]


class _IntegerOperands:
    """The codes of queries, keys and values, straight from integer kernels."""

    def __init__(self, kernels: Sequence[QuantizedLinear], roundings: Sequence[Rounding]) -> None:
        self.kernels, self.roundings = kernels, roundings

    def __call__(self, x_nc: Tensor) -> Sequence[Tensor]:
        """uint8 (n, channels) three times."""
        entering = self.kernels[0].rounding
        assert entering is not None
        codes_nc = entering.bytes(x_nc)
        return [k.into_bytes(codes_nc, r) for k, r in zip(self.kernels, self.roundings, strict=True)]


def _operands(
    qkv: nn.Module,
    roundings: ProductRoundings | None,
    dtype: torch.dtype,
    rows_hint: int,
    integers: Choice,
) -> Callable[[Tensor], Sequence[Tensor]]:
    """Kernels of the linear layer in front of an attention, with its rounding in the race."""
    three = () if roundings is None else (roundings.query, roundings.key, roundings.value)
    can_round = bool(three) and all(rounding.is_per_tensor for rounding in three)
    if not can_round or not isinstance(qkv, QuantizedLayer) or type(qkv.layer) is not nn.Linear:
        return _FloatOperands(linear_kernel(qkv, dtype, rows_hint, integers=integers))

    def by_integers() -> _IntegerOperands:
        thirds = torch.arange(qkv.weight.shape[0]).chunk(3)
        return _IntegerOperands(
            [QuantizedLinear(qkv, dtype, rows_hint, order=third) for third in thirds], three
        )

    def by_floats() -> _FloatOperands:
        return _FloatOperands(linear_kernel(qkv, dtype, rows_hint, integers=False), three)

    check_final(qkv)
    able = runs_on_integers(qkv, True)
    if isinstance(integers, bool) or not able:
        return by_integers() if able and integers is True else by_floats()
    rows, (width, wide) = min(rows_hint, MEASURED_ROWS), (qkv.layer.in_features, qkv.layer.out_features)
    case = Case("attention's codes", (rows, width, wide), str(dtype).removeprefix("torch."))
    ways: dict[Way, Callable[[], _IntegerOperands | _FloatOperands]] = {
        Way.INTEGER: by_integers,
        Way.PACKED: by_floats,
    }
    fastest: _IntegerOperands | _FloatOperands = integers.build(case, ways, lambda: torch.randn(rows, width))
    return fastest


class _FastBlock:
    """One `MultiScaleBlock`."""

    def __init__(
        self, source: MultiScaleBlock, dtype: torch.dtype, rows_hint: int, integers: Choice, way: AttentionWay
    ) -> None:
        attention, layers = source.attn, source.mlp.layers
        if len(layers) != 2:
            raise UnsupportedModuleError("The trunk's feed-forward parts are not SAM 2's.")
        if source.q_stride not in (None, (2, 2), [2, 2]) or not isinstance(source.mlp.act, nn.GELU):
            raise UnsupportedModuleError("The trunk's pooling or activation is not SAM 2's.")

        def kernel(module: nn.Module, activation: str = "none") -> LinearKernel:
            return linear_kernel(module, dtype, rows_hint, activation, integers=integers)

        self.window = source.window_size
        self.pools = source.q_stride is not None
        self.heads = attention.num_heads
        self.norm1, self.norm2 = source.norm1, source.norm2
        self.roundings = (
            ProductRoundings.of(attention) if isinstance(attention, QuantizedMultiScaleAttention) else None
        )
        self.operands = _operands(attention.qkv, self.roundings, dtype, rows_hint, integers)
        self.out = kernel(attention.proj)
        self.mlp = feed_forward(layers[0], layers[1], dtype, rows_hint, "gelu", integers)
        self.shortcut = kernel(source.proj) if source.dim != source.dim_out else None
        self.dtype = dtype if type(attention.qkv) is nn.Linear else torch.float32
        self.product_dtype, self.way = dtype, way
        self.ways: ProductWays | None = None
        tokens = source.window_size**2 or rows_hint
        if self.roundings is not None and tokens > SMALL_WINDOW:
            queries, depth = tokens // 4 if self.pools else tokens, source.dim_out // self.heads
            self.ways = ProductWays.fastest(self.roundings, integers, (queries, tokens, depth, depth), dtype)

    def __call__(self, x_bhwc: Tensor) -> Tensor:
        normed = self.norm1(x_bhwc).to(self.dtype)
        shortcut = x_bhwc if self.shortcut is None else _pool2(self.shortcut(normed)).to(x_bhwc.dtype)
        size = (shortcut.shape[1], shortcut.shape[2])
        if self.window:
            windows, padded = _cut_windows(normed, self.window)
            attended = self.attend(windows)
            side = self.window // 2 if self.pools else self.window
            if self.pools:
                padded = (padded[0] // 2, padded[1] // 2)
            attended = _join_windows(attended, side, padded, size)
        else:
            attended = self.attend(normed)
        x_bhwc = shortcut + attended
        return x_bhwc + self.mlp(self.norm2(x_bhwc))

    def attend(self, x_whwc: Tensor) -> Tensor:
        """Multi-head attention inside every window (w, h, w, c), queries pooled at a stage's start."""
        count, height, width, _ = x_whwc.shape
        made = self.operands(x_whwc.reshape(count * height * width, -1))
        queries, keys, values = (part.unflatten(-1, (self.heads, -1)) for part in made)
        queries, keys, values = (x.unflatten(0, (count, -1)) for x in (queries, keys, values))
        depth = queries.shape[-1]
        if self.pools:
            # of codes too: rounding keeps the order
            height, width = height // 2, width // 2
            grid = queries.reshape(count, 2 * height, 2 * width, -1)
            queries = _pool2(grid).view(count, height * width, self.heads, depth)
        operands = [x.transpose(1, 2) for x in (queries, keys, values)]
        if self.roundings is None and self.way is AttentionWay.FUSED:
            mixed = F.scaled_dot_product_attention(operands[0], operands[1], operands[2])
            return self.out(mixed.transpose(1, 2).reshape(count, height, width, -1))
        queries, keys, values = (x.reshape(count * self.heads, -1, depth) for x in operands)
        if self.roundings is not None:
            mixed = self._attend_rounded(queries, keys, values, self.roundings)
        elif keys.shape[1] > SMALL_WINDOW:
            mixed = attend(queries, keys, values, way=self.way)
        else:
            scores = torch.bmm(queries * depth**-0.5, keys.transpose(1, 2))
            mixed = torch.bmm(torch.softmax(scores, dim=-1), values)
        mixed = mixed.view(count, self.heads, height * width, depth).transpose(1, 2)
        return self.out(mixed.reshape(count, height, width, -1))

    def _attend_rounded(self, q: Tensor, k: Tensor, v: Tensor, roundings: ProductRoundings) -> Tensor:
        if k.shape[1] <= SMALL_WINDOW:
            return attend_small(q, k, v, roundings, q.shape[-1] ** -0.5, self.product_dtype)
        return attend_rounded(q, k, v, roundings, dtype=self.product_dtype, ways=self.ways)


class FastHiera(nn.Module):
    """Drop-in for `Hiera` at inference, in float32 or bfloat16, quantized or not.

    Args:
        source: the trunk; its parameters are used as they are now.
        dtype: of the products that integers do not serve.
        rows_hint: tokens of the first stage to expect; each stage has a quarter of the one before.
        integers: whether quantized parts use integer kernels, or a contest that decides.
        way: how attentions are computed that are not quantized (see `attend`).

    Raises:
        UnsupportedModuleError: the trunk is built differently from SAM 2's.
    """

    def __init__(
        self,
        source: Hiera,
        dtype: torch.dtype = torch.float32,
        rows_hint: int = 65536,
        integers: Choice = True,
        way: AttentionWay = AttentionWay.PACKED,
    ) -> None:
        super().__init__()
        if not source.return_interm_layers:
            raise UnsupportedModuleError("Only trunks that return every stage are covered.")
        self.source = source
        self.channel_list = source.channel_list
        self.stage_ends = frozenset(source.stage_ends)
        self.dtype = dtype
        self._fast = []
        for block in source.blocks:
            self._fast.append(_FastBlock(block, dtype, rows_hint, integers, way))
            rows_hint //= 4 if block.q_stride else 1
        self._positions: dict[tuple[int, int], Tensor] = {}

    def position_table(self, height: int, width: int) -> Tensor:
        """Position code (1, height, width, channels); the one of the last size is kept."""
        found = self._positions.get((height, width))
        if found is None:
            found = self.source._get_pos_embed((height, width)).contiguous()
            self._positions = {(height, width): found}
        return found

    def forward(self, x: Tensor) -> list[Tensor]:
        """Map images (batch, 3, side, side) to the features of all stages, (batch, channels, h, w) each."""
        # channels together from the start: sums of differently laid maps take ten times as long
        x_bhwc = self.source.patch_embed(x.contiguous(memory_format=torch.channels_last)).contiguous()
        x_bhwc = x_bhwc + self.position_table(x_bhwc.shape[1], x_bhwc.shape[2])
        outputs = []
        for index, block in enumerate(self._fast):
            x_bhwc = block(x_bhwc)
            if index in self.stage_ends:
                outputs.append(x_bhwc.permute(0, 3, 1, 2))
        return outputs
