"""Softmax attention for one head without materialising all scores, in fp32 or bf16.

What can make it faster than PyTorch's fused call on a CPU: keys and values are re-laid once for oneDNN's GEMM
and used by every block of queries, a block's scores stay in cache, and values may be narrower than keys (see
`memory_attention`). Which way is faster depends on the processor, and `probe` measures it: for 4096 queries x
28736 keys, 256 wide, values 64 wide, two cores with AVX-512 BF16 took 620 ms for the fused fp32 call with
256-wide values, 240 ms for blocks in fp32 and 141 ms in bf16; two cores with AMX 478 ms for the fused fp32
call, 137 ms for blocks in bf16 and 103 ms for the fused call in bf16.
"""

from __future__ import annotations

import functools
from enum import StrEnum

import torch
import torch.nn.functional as F
from torch import Tensor

QUERY_BLOCK = 128
"""Queries handled at a time: 64 to 256 are within 8 % of each other, 512 falls out of the cache."""
_PLAIN_BLOCK = 192
"""The same for plain products, whose scores live in one buffer."""


class AttentionWay(StrEnum):
    """How the CPU computes an attention."""

    FUSED = "fused"
    """PyTorch's fused call; values are widened to the keys' channels."""
    PACKED = "packed"
    """Blocks of queries on keys and values that were re-laid for oneDNN."""
    PLAIN = "plain"
    """Blocks of queries on keys and values as they lie, by BLAS in float32."""


@functools.cache
def has_packed_linear() -> bool:
    """True when this build of torch has oneDNN's prepacked linear (x86 CPUs)."""
    if not torch.backends.mkldnn.is_available():
        return False
    try:
        weight = torch.ops.mkldnn._reorder_linear_weight(torch.ones(8, 8), 8)
        torch.ops.mkldnn._linear_pointwise(torch.ones(8, 8), weight, None, "none", [], "")
    except (AttributeError, RuntimeError):
        return False
    return True


@functools.cache
def packs(dtype: torch.dtype) -> bool:
    """True when oneDNN's prepacked calls take this dtype here: bfloat16 needs AVX-512 or AVX-NE-CONVERT."""
    if dtype is torch.float32:
        return True
    try:
        return dtype is torch.bfloat16 and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    except (AttributeError, RuntimeError):
        return False


class PackedMatrix:
    """A (n, k) matrix re-laid once, to be multiplied from the left by many (m, k) blocks.

    With ``packed`` off, or where oneDNN cannot, it stays as it is and BLAS multiplies.
    """

    def __init__(
        self,
        matrix_nk: Tensor,
        bias_n: Tensor | None = None,
        rows_hint: int = QUERY_BLOCK,
        packed: bool = True,
    ) -> None:
        self.bias = bias_n
        can_pack = matrix_nk.device.type == "cpu" and packs(matrix_nk.dtype) and has_packed_linear()
        self.packed = packed and can_pack
        matrix_nk = matrix_nk.contiguous() if self.packed else matrix_nk
        self.matrix = (
            torch.ops.mkldnn._reorder_linear_weight(matrix_nk, rows_hint) if self.packed else matrix_nk
        )

    def multiply(self, block_mk: Tensor) -> Tensor:
        """``block_mk @ matrix_nk.T + bias_n``, shape (m, n), in the matrix's dtype."""
        if self.packed:
            return torch.ops.mkldnn._linear_pointwise(block_mk, self.matrix, self.bias, "none", [], "")
        return F.linear(block_mk, self.matrix, self.bias)


def attend(
    queries_bnc: Tensor,
    keys_bmc: Tensor,
    values_bmd: Tensor,
    *,
    scale: float | None = None,
    key_bias_bm: Tensor | None = None,
    dtype: torch.dtype | None = None,
    way: AttentionWay = AttentionWay.PACKED,
) -> Tensor:
    """``softmax(queries keys^T * scale + key_bias) values`` for one head.

    Args:
        queries_bnc: (batch, n, c).
        keys_bmc: (batch, m, c).
        values_bmd: (batch, m, d); d may differ from c.
        scale: factor on the scores, 1/sqrt(c) by default.
        key_bias_bm: (batch, m) or (m,), added to every query's scores: the log-count weight of merged keys.
        dtype: arithmetic of the products and the softmax, bfloat16 or float32; the queries' by default.
        way: how the CPU computes it (see `probe`); other devices take the fused call.

    Returns:
        (batch, n, d) in the queries' dtype. Agrees with `scaled_dot_product_attention` to 1e-5 in float32.
    """
    scale = queries_bnc.shape[-1] ** -0.5 if scale is None else scale
    work = dtype or queries_bnc.dtype
    if key_bias_bm is not None and key_bias_bm.dim() == 1:
        key_bias_bm = key_bias_bm.expand(queries_bnc.shape[0], -1)
    if way is AttentionWay.FUSED or queries_bnc.device.type != "cpu":
        return _attend_fused(queries_bnc, keys_bmc, values_bmd, scale, key_bias_bm, work)
    count = queries_bnc.shape[1]
    mixed = queries_bnc.new_empty((*queries_bnc.shape[:2], values_bmd.shape[-1]))
    for index in range(queries_bnc.shape[0]):
        bias = None if key_bias_bm is None else key_bias_bm[index].to(work)
        if way is AttentionWay.PLAIN and work is torch.float32:
            _attend_plain(
                queries_bnc[index].float() * scale,
                keys_bmc[index].float(),
                values_bmd[index].float(),
                bias,
                mixed[index],
            )
            continue
        keys = PackedMatrix(keys_bmc[index].to(work), bias)
        values = PackedMatrix(values_bmd[index].to(work).t())
        scaled = (queries_bnc[index] * scale).to(work)
        for start in range(0, count, QUERY_BLOCK):
            scores = keys.multiply(scaled[start : start + QUERY_BLOCK])
            mixed[index, start : start + QUERY_BLOCK] = values.multiply(torch.softmax(scores, dim=-1))
    return mixed


def _attend_fused(
    queries_bnc: Tensor,
    keys_bmc: Tensor,
    values_bmd: Tensor,
    scale: float,
    key_bias_bm: Tensor | None,
    work: torch.dtype,
) -> Tensor:
    width, depth = queries_bnc.shape[-1], values_bmd.shape[-1]
    mask = None if key_bias_bm is None else key_bias_bm[:, None, None, :].to(work)
    if queries_bnc.device.type == "cpu" and depth < width:
        # its fast path wants one width
        values_bmd = F.pad(values_bmd, (0, width - depth))
    q, k, v = (operand.to(work)[:, None] for operand in (queries_bnc, keys_bmc, values_bmd))
    mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)
    return mixed[:, 0, :, :depth].to(queries_bnc.dtype)


def _attend_plain(
    queries_nc: Tensor, keys_mc: Tensor, values_md: Tensor, bias_m: Tensor | None, mixed_nd: Tensor
) -> None:
    """One batch element, in float32, into ``mixed_nd``; a block's scores overwrite the ones before."""
    buffer = queries_nc.new_empty((min(_PLAIN_BLOCK, queries_nc.shape[0]), keys_mc.shape[0]))
    keys_cm = keys_mc.t()
    for start in range(0, queries_nc.shape[0], _PLAIN_BLOCK):
        block = queries_nc[start : start + _PLAIN_BLOCK]
        scores = buffer[: block.shape[0]]
        if bias_m is None:
            torch.mm(block, keys_cm, out=scores)
        else:
            torch.addmm(bias_m, block, keys_cm, out=scores)
        torch.softmax(scores, dim=-1, out=scores)
        mixed_nd[start : start + _PLAIN_BLOCK] = torch.mm(scores, values_md)
