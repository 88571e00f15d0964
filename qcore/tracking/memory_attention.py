"""Memory attention with an optional weight on every key, in the model's own arithmetic.

A faster memory attention enters by replacing the model's ``memory_attention`` module (`qcore.runtime` does);
a module whose forward takes ``key_bias`` gets it, for SAM 2's own the weighted path is written out here.
"""

from __future__ import annotations

import inspect
import math
from typing import Any

import torch
import torch.nn.functional as F
from sam2.modeling.position_encoding import apply_rotary_enc
from sam2.modeling.sam.transformer import RoPEAttention

from qcore.tracking.errors import TrackingError


def attend_memory(
    module: Any,
    curr_nbc: torch.Tensor,
    curr_pos_nbc: torch.Tensor,
    memory_mbc: torch.Tensor,
    memory_pos_mbc: torch.Tensor,
    num_pointer_tokens: int,
    key_bias_m: torch.Tensor | None = None,
    self_attended_bnc: torch.Tensor | None = None,
) -> torch.Tensor:
    """Condition the current frame's features on memory tokens; returns (N, B, C).

    Args:
        module: the model's ``memory_attention``.
        curr_nbc: features of the current frame, N = H * W tokens.
        curr_pos_nbc: their position encoding.
        memory_mbc: memory tokens of whole frames (each N tokens), object pointer tokens last.
        memory_pos_mbc: their position encoding.
        num_pointer_tokens: how many of the last tokens are pointers (they take no rotary encoding).
        key_bias_m: added to the cross-attention logits of every query, one value a memory token (the log of
            the number of frames it stands for). Without it this is the model's own forward.
        self_attended_bnc: what `attend_itself` gave for the same frame.

    Raises:
        TrackingError: a bias is given and the module is neither SAM 2's nor takes one.
    """
    inputs: dict[str, Any] = {
        "curr": [curr_nbc],
        "curr_pos": [curr_pos_nbc],
        "memory": memory_mbc,
        "memory_pos": memory_pos_mbc,
        "num_obj_ptr_tokens": num_pointer_tokens,
    }
    if key_bias_m is not None:
        if not _takes_key_bias(module.forward):
            return _attend_weighted(module, key_bias_m=key_bias_m, **inputs)
        inputs["key_bias"] = key_bias_m
    if self_attended_bnc is not None:
        inputs["self_attended"] = self_attended_bnc
    output_nbc: torch.Tensor = module(**inputs)
    return output_nbc


def as_tokens(map_bchw: torch.Tensor) -> torch.Tensor:
    """A map (B, C, H, W) as SAM 2's attention takes it: (H * W, B, C)."""
    return map_bchw.flatten(2).permute(2, 0, 1)


def attend_itself(module: Any, curr_nbc: torch.Tensor, curr_pos_nbc: torch.Tensor) -> torch.Tensor | None:
    """The part of memory attention that depends on the frame alone, (B, N, C); None where it cannot be had.

    It serves every object of the frame, and can be computed before the memories are there. `qcore.runtime`'s
    module offers it, SAM 2's own does not.
    """
    alone = getattr(module, "attend_itself", None)
    return None if alone is None else alone(curr_nbc, curr_pos_nbc)


def _takes_key_bias(forward: Any) -> bool:
    return "key_bias" in inspect.signature(forward).parameters


def _attend_weighted(
    module: Any,
    curr: list[torch.Tensor],
    curr_pos: list[torch.Tensor],
    memory: torch.Tensor,
    memory_pos: torch.Tensor,
    num_obj_ptr_tokens: int,
    key_bias_m: torch.Tensor,
) -> torch.Tensor:
    """`MemoryAttention.forward` of the `sam2` package in eval mode, with a bias on the memory keys."""
    output_nbc = curr[0] + 0.1 * curr_pos[0] if module.pos_enc_at_input else curr[0]
    output_bnc = output_nbc.transpose(0, 1)
    curr_pos_bnc = curr_pos[0].transpose(0, 1)
    memory_bmc = memory.transpose(0, 1)
    memory_pos_bmc = memory_pos.transpose(0, 1)
    for layer in module.layers:
        output_bnc = layer._forward_sa(output_bnc, curr_pos_bnc)
        queries_bnc = layer.norm2(output_bnc)
        attended_bnc = _cross_attend(
            layer.cross_attn_image,
            queries_bnc + curr_pos_bnc if layer.pos_enc_at_cross_attn_queries else queries_bnc,
            memory_bmc + memory_pos_bmc if layer.pos_enc_at_cross_attn_keys else memory_bmc,
            memory_bmc,
            num_obj_ptr_tokens,
            key_bias_m,
        )
        output_bnc = output_bnc + attended_bnc
        hidden_bnf = layer.activation(layer.linear1(layer.norm3(output_bnc)))
        output_bnc = output_bnc + layer.linear2(hidden_bnf)
    normed_nbc: torch.Tensor = module.norm(output_bnc).transpose(0, 1)
    return normed_nbc


def _cross_attend(
    attention: Any,
    q_bnc: torch.Tensor,
    k_bmc: torch.Tensor,
    v_bmc: torch.Tensor,
    num_pointer_tokens: int,
    key_bias_m: torch.Tensor,
) -> torch.Tensor:
    """One cross-attention with a bias on its keys; a module that takes ``key_bias`` does it itself."""
    if _takes_key_bias(attention.forward):
        result_bnc: torch.Tensor = attention(
            q=q_bnc, k=k_bmc, v=v_bmc, num_k_exclude_rope=num_pointer_tokens, key_bias=key_bias_m
        )
        return result_bnc
    if not isinstance(attention, RoPEAttention):
        raise TrackingError("This model's memory attention cannot weigh grouped memories.")
    q_bhnd = attention._separate_heads(attention.q_proj(q_bnc), attention.num_heads)
    k_bhmd = attention._separate_heads(attention.k_proj(k_bmc), attention.num_heads)
    v_bhmd = attention._separate_heads(attention.v_proj(v_bmc), attention.num_heads)
    q_bhnd, k_bhmd = _rotate(attention, q_bhnd, k_bhmd, num_pointer_tokens)
    bias_1m = key_bias_m.to(q_bhnd.dtype)[None]
    out_bhnd = F.scaled_dot_product_attention(q_bhnd, k_bhmd, v_bhmd, attn_mask=bias_1m)
    return attention.out_proj(attention._recombine_heads(out_bhnd))


def _rotate(
    attention: RoPEAttention, q_bhnd: torch.Tensor, k_bhmd: torch.Tensor, num_pointer_tokens: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rotary encoding of queries and of all keys but the pointers', as `RoPEAttention.forward` does it."""
    token_count = q_bhnd.shape[-2]
    attention.freqs_cis = attention.freqs_cis.to(q_bhnd.device)
    if attention.freqs_cis.shape[0] != token_count:
        side = math.isqrt(token_count)
        attention.freqs_cis = attention.compute_cis(end_x=side, end_y=side).to(q_bhnd.device)
    rotated = k_bhmd.shape[-2] - num_pointer_tokens
    q_bhnd, k_rotated = apply_rotary_enc(
        q_bhnd, k_bhmd[:, :, :rotated], freqs_cis=attention.freqs_cis, repeat_freqs_k=attention.rope_k_repeat
    )
    return q_bhnd, torch.cat([k_rotated, k_bhmd[:, :, rotated:]], dim=2)
