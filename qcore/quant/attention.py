"""The three attentions of SAM 2 with both matrix products quantized: q, k, v and the probabilities.

Each class is a subclass of the original (code in ``sam2`` asks ``isinstance``), takes over its projections,
and retells its forward with `_attend` in place of the fused kernel. With every quantizer off the fused
kernel runs and the output is the original's, bit for bit. Queries and keys are rounded after the rotary
code, because those are the operands of the product; in Hiera the queries are rounded after pooling, which
equals before (rounding is monotone).
"""

from __future__ import annotations

import math
from typing import Any, Self

import torch
import torch.nn.functional as F
from sam2.modeling.backbones.hieradet import MultiScaleAttention, do_pool
from sam2.modeling.position_encoding import apply_rotary_enc
from sam2.modeling.sam.transformer import Attention, RoPEAttention
from torch import Tensor, nn

from qcore.quant.fake_quantize import ActivationQuantizer, QuantizerState
from qcore.quant.softmax_quantizer import LogSoftmaxQuantizer

_LARGEST_PROBABILITIES = 1 << 24
"""Elements of the explicit probability matrix held at a time without gradients (64 MiB of fp32)."""


class QuantizedProducts(nn.Module):
    """Mixin: the quantizers of Q K^T and P V, and the attention product that uses them."""

    query_quantizer: ActivationQuantizer
    key_quantizer: ActivationQuantizer
    value_quantizer: ActivationQuantizer
    probs_quantizer: ActivationQuantizer | LogSoftmaxQuantizer
    query_rows: Tensor | None
    """Indices of the queries to answer, all by default: rows of an attention do not depend on each other,
    so fitting can do with some of them."""

    @classmethod
    def adopt(
        cls,
        original: nn.Module,
        query: ActivationQuantizer,
        key: ActivationQuantizer,
        value: ActivationQuantizer,
        probs: ActivationQuantizer | LogSoftmaxQuantizer,
    ) -> Self:
        """A quantized attention that owns the original's submodules and settings."""
        new = cls.__new__(cls)
        nn.Module.__init__(new)
        for name, value_ in vars(original).items():
            if name not in vars(new) or name == "training":
                vars(new)[name] = value_
        for name, child in original.named_children():
            new.add_module(name, child)
        new.query_quantizer, new.key_quantizer, new.value_quantizer = query, key, value
        new.probs_quantizer = probs
        new.query_rows = None
        return new

    def _attend(
        self, q_bhnd: Tensor, k_bhmd: Tensor, v_bhmd: Tensor, key_bias_m: Tensor | None = None
    ) -> Tensor:
        """softmax(q k^T / sqrt(d) + key_bias) v with both products' operands rounded; (B, heads, N, d)."""
        if self.query_rows is not None:
            q_bhnd = q_bhnd[:, :, self.query_rows]
        q, k, v = self.query_quantizer(q_bhnd), self.key_quantizer(k_bhmd), self.value_quantizer(v_bhmd)
        bias = None if key_bias_m is None else key_bias_m.to(q.dtype)[None]
        if self.probs_quantizer.state is QuantizerState.OFF:
            return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        keys_t = k.transpose(-2, -1) * (1.0 / math.sqrt(q.shape[-1]))
        rows = q.shape[-2]
        if not torch.is_grad_enabled():
            rows = max(1, _LARGEST_PROBABILITIES // max(1, k.shape[-2] * q.shape[0] * q.shape[1]))
        outputs = []
        for chunk in q.split(rows, dim=-2):
            logits = chunk @ keys_t
            if bias is not None:
                logits = logits + bias
            probs = torch.softmax(logits.float(), dim=-1).to(v.dtype)
            if isinstance(self.probs_quantizer, LogSoftmaxQuantizer):
                probs = self.probs_quantizer(probs, v)
            else:
                probs = self.probs_quantizer(probs)
            outputs.append(probs @ v)
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=-2)


class QuantizedAttention(QuantizedProducts, Attention):
    """The mask decoder's attention."""

    q_proj: nn.Module
    k_proj: nn.Module
    v_proj: nn.Module
    out_proj: nn.Module
    num_heads: int

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """(B, N, C), (B, M, C), (B, M, C) -> (B, N, C)."""
        q = _split_heads(self.q_proj(q), self.num_heads)
        k = _split_heads(self.k_proj(k), self.num_heads)
        v = _split_heads(self.v_proj(v), self.num_heads)
        out: Tensor = self.out_proj(_join_heads(self._attend(q, k, v)))
        return out


class QuantizedRoPEAttention(QuantizedProducts, RoPEAttention):
    """Memory attention's self- and cross-attention with rotary position codes."""

    accepts_key_bias = True
    """Tells `qcore.tracking` that Mutual-KV's weights can be handed to ``forward``."""

    q_proj: nn.Module
    k_proj: nn.Module
    v_proj: nn.Module
    out_proj: nn.Module
    num_heads: int
    rope_k_repeat: bool
    compute_cis: Any
    freqs_cis: Tensor

    def forward(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        num_k_exclude_rope: int = 0,
        key_bias: Tensor | None = None,
    ) -> Tensor:
        """(B, N, C), (B, M, kv), (B, M, kv) -> (B, N, C).

        The last ``num_k_exclude_rope`` keys are not rotated; ``key_bias`` (M,) is added to all rows of
        logits.
        """
        q = _split_heads(self.q_proj(q), self.num_heads)
        k = _split_heads(self.k_proj(k), self.num_heads)
        v = _split_heads(self.v_proj(v), self.num_heads)
        side = math.isqrt(q.shape[-2])
        self.freqs_cis = self.freqs_cis.to(q.device)
        if self.freqs_cis.shape[0] != q.shape[-2]:
            self.freqs_cis = self.compute_cis(end_x=side, end_y=side).to(q.device)
        rotated = k.shape[-2] - num_k_exclude_rope
        q, k_rotated = apply_rotary_enc(
            q, k[:, :, :rotated], freqs_cis=self.freqs_cis, repeat_freqs_k=self.rope_k_repeat
        )
        k = torch.cat([k_rotated, k[:, :, rotated:]], dim=2) if num_k_exclude_rope else k_rotated
        out: Tensor = self.out_proj(_join_heads(self._attend(q, k, v, key_bias)))
        return out


class QuantizedMultiScaleAttention(QuantizedProducts, MultiScaleAttention):
    """Hiera's windowed attention with optional pooling of the queries."""

    qkv: nn.Module
    proj: nn.Module
    num_heads: int
    q_pool: Any

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H', W', C')."""
        batch, height, width, _ = x.shape
        qkv = self.qkv(x).reshape(batch, height * width, 3, self.num_heads, -1)
        q, k, v = torch.unbind(qkv, 2)
        if self.q_pool:
            q = do_pool(q.reshape(batch, height, width, -1), self.q_pool)
            height, width = q.shape[1:3]
            q = q.reshape(batch, height * width, self.num_heads, -1)
        out = self._attend(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
        result: Tensor = self.proj(out.transpose(1, 2).reshape(batch, height, width, -1))
        return result


def _split_heads(x_bnc: Tensor, heads: int) -> Tensor:
    """(B, N, C) -> (B, heads, N, C / heads)."""
    return x_bnc.unflatten(-1, (heads, -1)).transpose(1, 2)


def _join_heads(x_bhnd: Tensor) -> Tensor:
    """Inverse of `_split_heads`."""
    return x_bhnd.transpose(1, 2).flatten(2)


def quantized_class(attention: nn.Module) -> type[QuantizedProducts] | None:
    """Which of the classes above takes over ``attention``; None for anything else."""
    table: list[tuple[Any, type[QuantizedProducts]]] = [
        (RoPEAttention, QuantizedRoPEAttention),
        (Attention, QuantizedAttention),
        (MultiScaleAttention, QuantizedMultiScaleAttention),
    ]
    for original, replacement in table:
        if isinstance(attention, original):
            return replacement
    return None
