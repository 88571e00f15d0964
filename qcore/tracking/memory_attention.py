"""Memory attention with an optional weight on every key: the exact reference path.

A `MemoryAttentionBackend` is the narrow door through which a faster implementation enters a session; this
module's `exact_memory_attention` is the default and the one others are measured against.
"""

from __future__ import annotations

import math
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from sam2.modeling.position_encoding import apply_rotary_enc
from sam2.modeling.sam.transformer import RoPEAttention

from qcore.tracking.errors import TrackingError


class MemoryAttentionBackend(Protocol):
    """Conditions the current frame's features on memory tokens."""

    def __call__(
        self,
        module: Any,
        curr_nbc: torch.Tensor,
        curr_pos_nbc: torch.Tensor,
        memory_mbc: torch.Tensor,
        memory_pos_mbc: torch.Tensor,
        num_pointer_tokens: int,
        key_bias_m: torch.Tensor | None,
    ) -> torch.Tensor:
        """Return the conditioned features (N, B, C).

        Args:
            module: the model's ``memory_attention`` (a `sam2.modeling.memory_attention.MemoryAttention`).
            curr_nbc: features of the current frame, N = H * W tokens.
            curr_pos_nbc: their position encoding.
            memory_mbc: memory tokens of whole frames (each N tokens), object pointer tokens last.
            memory_pos_mbc: their position encoding.
            num_pointer_tokens: how many of the last tokens are pointers (they take no rotary encoding).
            key_bias_m: added to the cross-attention logits of every query, one value a memory token
                (log of the number of frames a token stands for); None for plain attention.
        """


def exact_memory_attention(
    module: Any,
    curr_nbc: torch.Tensor,
    curr_pos_nbc: torch.Tensor,
    memory_mbc: torch.Tensor,
    memory_pos_mbc: torch.Tensor,
    num_pointer_tokens: int,
    key_bias_m: torch.Tensor | None = None,
) -> torch.Tensor:
    """`MemoryAttentionBackend` in the model's own precision; without a bias it is the model's own forward."""
    if key_bias_m is None:
        output: torch.Tensor = module(
            curr=[curr_nbc],
            curr_pos=[curr_pos_nbc],
            memory=memory_mbc,
            memory_pos=memory_pos_mbc,
            num_obj_ptr_tokens=num_pointer_tokens,
        )
        return output
    output = curr_nbc
    if module.pos_enc_at_input:
        output = output + 0.1 * curr_pos_nbc
    output_bnc = output.transpose(0, 1)
    curr_pos_bnc = curr_pos_nbc.transpose(0, 1)
    memory_bmc = memory_mbc.transpose(0, 1)
    memory_pos_bmc = memory_pos_mbc.transpose(0, 1)
    for layer in module.layers:
        output_bnc = layer._forward_sa(output_bnc, curr_pos_bnc)
        queries = layer.norm2(output_bnc)
        attended = _attend_biased(
            layer.cross_attn_image,
            queries + curr_pos_bnc if layer.pos_enc_at_cross_attn_queries else queries,
            memory_bmc + memory_pos_bmc if layer.pos_enc_at_cross_attn_keys else memory_bmc,
            memory_bmc,
            num_pointer_tokens,
            key_bias_m,
        )
        output_bnc = output_bnc + attended
        hidden = layer.activation(layer.linear1(layer.norm3(output_bnc)))
        output_bnc = output_bnc + layer.linear2(hidden)
    return module.norm(output_bnc).transpose(0, 1)


def _attend_biased(
    attention: Any,
    q_bnc: torch.Tensor,
    k_bmc: torch.Tensor,
    v_bmc: torch.Tensor,
    num_pointer_tokens: int,
    key_bias_m: torch.Tensor,
) -> torch.Tensor:
    """One cross-attention with a bias on its keys; a module with ``accepts_key_bias`` does it itself."""
    if getattr(attention, "accepts_key_bias", False):
        result: torch.Tensor = attention(
            q=q_bnc, k=k_bmc, v=v_bmc, num_k_exclude_rope=num_pointer_tokens, key_bias=key_bias_m
        )
        return result
    if not isinstance(attention, RoPEAttention):
        raise TrackingError("This model's memory attention cannot weigh grouped memories.")
    q_bhnd = attention._separate_heads(attention.q_proj(q_bnc), attention.num_heads)
    k_bhmd = attention._separate_heads(attention.k_proj(k_bmc), attention.num_heads)
    v_bhmd = attention._separate_heads(attention.v_proj(v_bmc), attention.num_heads)
    q_bhnd, k_bhmd = _rotate(attention, q_bhnd, k_bhmd, num_pointer_tokens)
    out = F.scaled_dot_product_attention(q_bhnd, k_bhmd, v_bhmd, attn_mask=key_bias_m.to(q_bhnd.dtype)[None])
    return attention.out_proj(attention._recombine_heads(out))


def _rotate(
    attention: RoPEAttention, q_bhnd: torch.Tensor, k_bhmd: torch.Tensor, num_pointer_tokens: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rotary encoding of queries and of all keys but the pointers', as `RoPEAttention.forward` does it."""
    token_count = q_bhnd.shape[-2]
    attention.freqs_cis = attention.freqs_cis.to(q_bhnd.device)
    if attention.freqs_cis.shape[0] != token_count:
        side = int(math.sqrt(token_count))
        attention.freqs_cis = attention.compute_cis(end_x=side, end_y=side).to(q_bhnd.device)
    rotated = k_bhmd.shape[-2] - num_pointer_tokens
    q_bhnd, k_rotated = apply_rotary_enc(
        q_bhnd, k_bhmd[:, :, :rotated], freqs_cis=attention.freqs_cis, repeat_freqs_k=attention.rope_k_repeat
    )
    return q_bhnd, torch.cat([k_rotated, k_bhmd[:, :, rotated:]], dim=2)
