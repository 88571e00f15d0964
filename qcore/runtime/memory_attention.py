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

from qcore.runtime.attention import attend
from qcore.runtime.linear import PackedLinear


class UnsupportedModuleError(TypeError):
    """A module differs from what the fast path was written for; the caller keeps the original."""


def _split_pairs(linear: nn.Linear) -> tuple[Tensor, Tensor]:
    """Weight and bias with the output channels reordered: even ones first, then odd ones."""
    order = torch.cat([torch.arange(0, linear.out_features, 2), torch.arange(1, linear.out_features, 2)])
    return linear.weight.detach()[order], linear.bias.detach()[order]


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
    """One `RoPEAttention` with a single head, as self- or cross-attention."""

    def __init__(
        self, source: RoPEAttention, dtype: torch.dtype, rows_hint: int, narrow_values: bool
    ) -> None:
        if source.num_heads != 1 or source.internal_dim % 2:
            raise UnsupportedModuleError("The fast path is written for one attention head.")
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            if type(getattr(source, name)) is not nn.Linear:
                raise UnsupportedModuleError(f"{name} is not a plain linear layer.")
        self.dtype = dtype
        self.compute_cis = source.compute_cis
        self.query = PackedLinear(*_split_pairs(source.q_proj), dtype, rows_hint)
        self.key = PackedLinear(*_split_pairs(source.k_proj), dtype, rows_hint)
        v_weight, v_bias = source.v_proj.weight.detach(), source.v_proj.bias.detach()
        o_weight, o_bias = source.out_proj.weight.detach(), source.out_proj.bias.detach()
        if narrow_values:
            combined = (o_weight.double() @ v_weight.double()).float()
            bias = (o_weight.double() @ v_bias.double() + o_bias.double()).float()
            self.value = None
            self.output = PackedLinear(combined, bias, dtype, rows_hint)
        else:
            self.value = PackedLinear(v_weight, v_bias, dtype, rows_hint)
            self.output = PackedLinear(o_weight, o_bias, dtype, rows_hint)
        self._tables: dict[tuple[int, torch.device], tuple[Tensor, Tensor]] = {}

    def tables(self, tokens: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Cosines and sines (tokens, internal_dim / 2) of the axial rotary encoding of a square grid."""
        found = self._tables.get((tokens, device))
        if found is None:
            side = round(tokens**0.5)
            if side * side != tokens:
                raise ValueError(f"Memory attention works on square feature maps, not on {tokens} tokens.")
            cis = self.compute_cis(end_x=side, end_y=side).to(device)
            found = (cis.real.to(self.dtype).contiguous(), cis.imag.to(self.dtype).contiguous())
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
        q = _rotate(self.query(q_bnc), cos, sin)
        k = self.key(k_bmc)
        rotated = k.shape[1] - unrotated
        if unrotated:
            k = torch.cat([_rotate(k[:, :rotated].contiguous(), cos, sin), k[:, rotated:]], dim=1)
        else:
            k = _rotate(k, cos, sin)
        v = v_bmd if self.value is None else self.value(v_bmd)
        return self.output(attend(q, k, v, key_bias_bm=key_bias_m, dtype=self.dtype))


class _FastLayer:
    """One layer: self-attention, cross-attention to memory, MLP; residual sums stay in the input's dtype."""

    def __init__(self, source: MemoryAttentionLayer, dtype: torch.dtype, rows_hint: int) -> None:
        if source.pos_enc_at_attn or source.pos_enc_at_cross_attn_queries:
            raise UnsupportedModuleError("Position codes inside attention queries are not covered.")
        self.source = source
        self.self_attention = _FastRotaryAttention(source.self_attn, dtype, rows_hint, narrow_values=False)
        self.cross_attention = _FastRotaryAttention(
            source.cross_attn_image, dtype, rows_hint, narrow_values=True
        )
        self.linear1 = PackedLinear.of(source.linear1, dtype, rows_hint)
        self.linear2 = PackedLinear.of(source.linear2, dtype, rows_hint)
        self.activation = source.activation

    def __call__(
        self, x_bnc: Tensor, k_bmd: Tensor, memory_bmd: Tensor, pointers: int, key_bias_m: Tensor | None
    ) -> Tensor:
        normed = self.source.norm1(x_bnc)
        x_bnc = x_bnc + self.self_attention(normed, normed, normed)
        normed = self.source.norm2(x_bnc)
        x_bnc = x_bnc + self.cross_attention(normed, k_bmd, memory_bmd, pointers, key_bias_m)
        hidden = self.activation(self.linear1(self.source.norm3(x_bnc)))
        return x_bnc + self.linear2(hidden)


class FastMemoryAttention(nn.Module):
    """Drop-in for SAM 2's `MemoryAttention` at inference, in float32 (exact) or bfloat16.

    Raises:
        UnsupportedModuleError: the module is built differently from SAM 2's (several heads, say).
    """

    def __init__(
        self, source: MemoryAttention, dtype: torch.dtype = torch.float32, rows_hint: int = 4096
    ) -> None:
        super().__init__()
        if not source.batch_first:
            raise UnsupportedModuleError("Sequence-first layers are not covered.")
        self.pos_enc_at_input = source.pos_enc_at_input
        self.norm = source.norm
        self.d_model = source.d_model
        self.layers = source.layers
        self.dtype = dtype
        self._fast = [_FastLayer(layer, dtype, rows_hint) for layer in source.layers]
        self._keys_with_pos = [layer.pos_enc_at_cross_attn_keys for layer in source.layers]

    def forward(
        self,
        curr: Tensor | list[Tensor],
        memory: Tensor,
        curr_pos: Tensor | list[Tensor] | None = None,
        memory_pos: Tensor | None = None,
        num_obj_ptr_tokens: int = 0,
        key_bias: Tensor | None = None,
    ) -> Tensor:
        """Attend from the frame's features to the memory.

        Args:
            curr: (n, batch, d_model) features of the frame, n = side * side.
            memory: (m, batch, mem_dim); the last ``num_obj_ptr_tokens`` are object pointers.
            curr_pos: position code of ``curr``.
            memory_pos: position code of ``memory``.
            num_obj_ptr_tokens: tokens that get no rotary encoding.
            key_bias: (m,) added to the scores of every memory token: log of the frames merged into it.

        Returns:
            (n, batch, d_model) conditioned features in the dtype of ``curr``.
        """
        curr = curr[0] if isinstance(curr, list) else curr
        curr_pos = curr_pos[0] if isinstance(curr_pos, list) else curr_pos
        x_bnc = curr + 0.1 * curr_pos if self.pos_enc_at_input and curr_pos is not None else curr
        x_bnc = x_bnc.transpose(0, 1).contiguous()
        memory_bmd = memory.transpose(0, 1).contiguous()
        with_pos = memory_bmd if memory_pos is None else memory_bmd + memory_pos.transpose(0, 1)
        memory_bmd, with_pos = memory_bmd.to(self.dtype), with_pos.to(self.dtype)
        for layer, keys_with_pos in zip(self._fast, self._keys_with_pos, strict=True):
            keys = with_pos if keys_with_pos else memory_bmd
            x_bnc = layer(x_bnc, keys, memory_bmd, num_obj_ptr_tokens, key_bias)
        normed: Tensor = F.layer_norm(
            x_bnc, self.norm.normalized_shape, self.norm.weight, self.norm.bias, self.norm.eps
        )
        return normed.transpose(0, 1)
