"""SAM 2's memory attention rewritten for speed; the same function of the same parameters.

Two exact rewrites per layer. (1) Every row of the attention matrix P sums to one, so with values
``V = M W_v^T + b_v`` the output ``P V W_o^T + b_o`` equals ``(P M) (W_o W_v)^T + (W_o b_v + b_o)``: the large
product runs on the 64-channel memory instead of the 256-channel values. (2) Rotary encoding acts on pairs
of neighbouring channels; ordering q and k as (all first members, all second members) leaves every q.k
unchanged and turns the rotation into contiguous arithmetic.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from sam2.modeling.memory_attention import MemoryAttention, MemoryAttentionLayer
from sam2.modeling.sam.transformer import RoPEAttention
from torch import Tensor, nn

from qcore.quant.attention import QuantizedRoPEAttention
from qcore.runtime.attention import AttentionWay, attend
from qcore.runtime.choice import Choice
from qcore.runtime.errors import UnsupportedModuleError
from qcore.runtime.linear import PackedLinear
from qcore.runtime.quantized_attention import ProductRoundings, ProductWays, attend_rounded
from qcore.runtime.quantized_layers import LinearKernel, QuantizedLinear, feed_forward, linear_kernel


def _pairs_apart(width: int) -> Tensor:
    """Order of channels that puts the even ones first, then the odd ones."""
    return torch.cat([torch.arange(0, width, 2), torch.arange(1, width, 2)])


def _rotate(x_bnc: Tensor, cos_nk: Tensor, sin_nk: Tensor) -> Tensor:
    """Rotary encoding of channels ordered (first members, second members); frames repeat the table."""
    half = x_bnc.shape[-1] // 2
    tokens = cos_nk.shape[0]
    shaped = x_bnc.view(x_bnc.shape[0], -1, tokens, x_bnc.shape[-1])
    first, second = shaped[..., :half], shaped[..., half:]
    rotated = torch.empty_like(shaped)
    torch.mul(first, cos_nk, out=rotated[..., :half]).addcmul_(second, sin_nk, value=-1)
    torch.mul(first, sin_nk, out=rotated[..., half:]).addcmul_(second, cos_nk)
    return rotated.view_as(x_bnc)


class _FastRotaryAttention:
    """One `RoPEAttention` with a single head, as self- or cross-attention; quantized or not."""

    def __init__(
        self,
        source: RoPEAttention,
        dtype: torch.dtype,
        rows_hint: int,
        keys_hint: int,
        narrow_values: bool,
        integers: Choice,
        way: AttentionWay,
    ) -> None:
        if source.num_heads != 1 or source.internal_dim % 2:
            raise UnsupportedModuleError("The fast path is written for one attention head.")
        self.dtype = dtype
        self.way = way
        self.compute_cis = source.compute_cis
        self.roundings = ProductRoundings.of(source) if isinstance(source, QuantizedRoPEAttention) else None
        order = _pairs_apart(source.internal_dim)
        self.query = linear_kernel(source.q_proj, dtype, rows_hint, order=order, integers=integers)
        self.key = linear_kernel(source.k_proj, dtype, keys_hint, order=order, integers=integers)
        v_proj, out_proj = source.v_proj, source.out_proj
        self.value: LinearKernel | None = None
        if narrow_values and self.roundings is None and type(v_proj) is type(out_proj) is nn.Linear:
            v_weight, v_bias = v_proj.weight.detach(), v_proj.bias.detach()
            o_weight, o_bias = out_proj.weight.detach(), out_proj.bias.detach()
            combined = (o_weight.double() @ v_weight.double()).float()
            bias = (o_weight.double() @ v_bias.double() + o_bias.double()).float()
            self.output: LinearKernel = PackedLinear(combined, bias, dtype, rows_hint)
        else:
            # rounded values are not linear in the memory any more
            self.value = linear_kernel(v_proj, dtype, keys_hint, integers=integers)
            self.output = linear_kernel(out_proj, dtype, rows_hint, integers=integers)
        self.ways: ProductWays | None = None
        if self.roundings is not None:
            width = source.internal_dim
            shape_nmcd = (rows_hint, keys_hint, width, width)
            self.ways = ProductWays.fastest(self.roundings, integers, shape_nmcd, dtype)
        self._tables: dict[tuple[int, torch.device], tuple[Tensor, Tensor]] = {}

    def tables(self, tokens: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Cosines and sines (tokens, internal_dim / 2) of the axial rotary encoding of a square grid."""
        found = self._tables.get((tokens, device))
        if found is None:
            side = round(tokens**0.5)
            if side * side != tokens:
                raise ValueError(f"Memory attention works on square feature maps, not on {tokens} tokens.")
            cis = self.compute_cis(end_x=side, end_y=side).to(device)
            dtype = self.dtype if self.roundings is None else torch.float32
            found = (cis.real.to(dtype).contiguous(), cis.imag.to(dtype).contiguous())
            self._tables = {(tokens, device): found}
        return found

    def __call__(
        self,
        q_bnc: Tensor,
        k_bmc: Tensor,
        v_bmd: Tensor,
        unrotated: int = 0,
        key_bias_m: Tensor | None = None,
    ) -> Tensor:
        cos, sin = self.tables(q_bnc.shape[1], q_bnc.device)
        # a rounding wants its input as exact as it comes: codes depend on it
        exact = torch.float32 if self.roundings is not None else self.dtype
        q = _rotate(self.query(q_bnc).to(exact), cos, sin)
        k = self.key(k_bmc).to(exact)
        rotated = k.shape[1] - unrotated
        if unrotated:
            k = torch.cat([_rotate(k[:, :rotated].contiguous(), cos, sin), k[:, rotated:]], dim=1)
        else:
            k = _rotate(k, cos, sin)
        v = v_bmd if self.value is None else self._values(v_bmd)
        if self.roundings is None:
            mixed = attend(q, k, v, key_bias_bm=key_bias_m, dtype=self.dtype, way=self.way)
            return self.output(mixed)
        return self.output(
            attend_rounded(q, k, v, self.roundings, key_bias_m=key_bias_m, dtype=self.dtype, ways=self.ways)
        )

    def _values(self, v_bmd: Tensor) -> Tensor:
        """Projected values, or their codes where the kernel gives these at once."""
        value, roundings = self.value, self.roundings
        assert value is not None
        if (
            isinstance(value, QuantizedLinear) and value.integer is not None
            and roundings is not None and roundings.value.is_per_tensor
        ):  # fmt: skip
            return value.into_bytes(v_bmd, roundings.value).view(*v_bmd.shape[:-1], -1)
        return value(v_bmd)


class _FastLayer:
    """One layer: self-attention, cross-attention to memory, MLP; residual sums stay in the input's dtype."""

    def __init__(
        self,
        source: MemoryAttentionLayer,
        dtype: torch.dtype,
        rows_hint: int,
        frames_hint: int,
        integers: Choice,
        way: AttentionWay,
    ) -> None:
        if source.pos_enc_at_attn or source.pos_enc_at_cross_attn_queries:
            raise UnsupportedModuleError("Position codes inside attention queries are not covered.")
        if source.activation is not F.relu:
            raise UnsupportedModuleError("The feed-forward part's activation is not SAM 2's.")
        self.source = source
        self.self_attention = _FastRotaryAttention(
            source.self_attn, dtype, rows_hint, rows_hint, False, integers, way
        )
        self.cross_attention = _FastRotaryAttention(
            source.cross_attn_image, dtype, rows_hint, frames_hint * rows_hint, True, integers, way
        )
        self.feed_forward = feed_forward(source.linear1, source.linear2, dtype, rows_hint, "relu", integers)

    def attend_itself(self, x_bnc: Tensor) -> Tensor:
        """The part that knows of no memory."""
        normed = self.source.norm1(x_bnc)
        return x_bnc + self.self_attention(normed, normed, normed)

    def attend_memory(
        self, x_bnc: Tensor, k_bmd: Tensor, memory_bmd: Tensor, pointers: int, key_bias_m: Tensor | None
    ) -> Tensor:
        """The rest, from what `attend_itself` gave."""
        normed = self.source.norm2(x_bnc)
        x_bnc = x_bnc + self.cross_attention(normed, k_bmd, memory_bmd, pointers, key_bias_m)
        return x_bnc + self.feed_forward(self.source.norm3(x_bnc))


class FastMemoryAttention(nn.Module):
    """Drop-in for SAM 2's `MemoryAttention` at inference, in float32 (exact) or bfloat16, quantized or not.

    Args:
        source: the module; its parameters are used as they are now.
        dtype: of the products that integers do not serve.
        rows_hint: tokens of a frame to expect.
        integers: whether quantized parts use integer kernels, or a contest that decides.
        way: how attentions are computed that are not quantized (see `attend`).
        frames_hint: memory frames to expect.

    Raises:
        UnsupportedModuleError: the module is built differently from SAM 2's (several heads, say).
    """

    def __init__(
        self,
        source: MemoryAttention,
        dtype: torch.dtype = torch.float32,
        rows_hint: int = 4096,
        integers: Choice = True,
        way: AttentionWay = AttentionWay.PACKED,
        frames_hint: int = 4,
    ) -> None:
        super().__init__()
        if not source.batch_first:
            raise UnsupportedModuleError("Sequence-first layers are not covered.")
        self.pos_enc_at_input = source.pos_enc_at_input
        self.norm = source.norm
        self.d_model = source.d_model
        self.layers = source.layers
        self.dtype = dtype
        self._fast = [
            _FastLayer(layer, dtype, rows_hint, frames_hint, integers, way) for layer in source.layers
        ]
        self._is_quantized = any(isinstance(m, QuantizedRoPEAttention) for m in source.modules())
        self._keys_with_pos = [layer.pos_enc_at_cross_attn_keys for layer in source.layers]

    def attend_itself(
        self, curr: Tensor | list[Tensor], curr_pos: Tensor | list[Tensor] | None = None
    ) -> Tensor:
        """The first layer's self-attention, (batch, n, d_model): the same for all objects of a frame.

        Args:
            curr: (n, batch, d_model) features of the frame, n = side * side.
            curr_pos: position code of ``curr``.
        """
        curr = curr[0] if isinstance(curr, list) else curr
        curr_pos = curr_pos[0] if isinstance(curr_pos, list) else curr_pos
        x_bnc = curr + 0.1 * curr_pos if self.pos_enc_at_input and curr_pos is not None else curr
        return self._fast[0].attend_itself(x_bnc.transpose(0, 1).contiguous())

    def forward(
        self,
        curr: Tensor | list[Tensor],
        memory: Tensor,
        curr_pos: Tensor | list[Tensor] | None = None,
        memory_pos: Tensor | None = None,
        num_obj_ptr_tokens: int = 0,
        key_bias: Tensor | None = None,
        self_attended: Tensor | None = None,
    ) -> Tensor:
        """Attend from the frame's features to the memory.

        Args:
            curr: (n, batch, d_model) features of the frame, n = side * side.
            memory: (m, batch, mem_dim); the last ``num_obj_ptr_tokens`` are object pointers.
            curr_pos: position code of ``curr``.
            memory_pos: position code of ``memory``.
            num_obj_ptr_tokens: tokens that get no rotary encoding.
            key_bias: (m,) added to the scores of every memory token: log of the frames merged into it.
            self_attended: what `attend_itself` made of ``curr`` and ``curr_pos``, if it is known.

        Returns:
            (n, batch, d_model) conditioned features in the dtype of ``curr``.
        """
        memory_bmd = memory.transpose(0, 1).contiguous()
        with_pos = memory_bmd if memory_pos is None else memory_bmd + memory_pos.transpose(0, 1)
        if not self._is_quantized:
            memory_bmd, with_pos = memory_bmd.to(self.dtype), with_pos.to(self.dtype)
        x_bnc = self.attend_itself(curr, curr_pos) if self_attended is None else self_attended
        for index, (layer, keys_with_pos) in enumerate(zip(self._fast, self._keys_with_pos, strict=True)):
            keys = with_pos if keys_with_pos else memory_bmd
            x_bnc = x_bnc if index == 0 else layer.attend_itself(x_bnc)
            x_bnc = layer.attend_memory(x_bnc, keys, memory_bmd, num_obj_ptr_tokens, key_bias)
        normed: Tensor = F.layer_norm(
            x_bnc, self.norm.normalized_shape, self.norm.weight, self.norm.bias, self.norm.eps
        )
        return normed.transpose(0, 1)
