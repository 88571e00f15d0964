"""Blocked attention against PyTorch's, and the fast memory attention against the sam2 package's own."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from sam2.modeling.memory_attention import MemoryAttention, MemoryAttentionLayer
from sam2.modeling.sam.transformer import RoPEAttention

from qcore.runtime import attention
from qcore.runtime.attention import AttentionWay
from qcore.runtime.memory_attention import FastMemoryAttention, UnsupportedModuleError


def memory_attention(grid: int, d_model: int = 64, mem_dim: int = 16, heads: int = 1) -> MemoryAttention:
    torch.manual_seed(1)

    def rotary(**kwargs: object) -> RoPEAttention:
        return RoPEAttention(
            rope_theta=10000.0, feat_sizes=(grid, grid), embedding_dim=d_model, num_heads=heads, **kwargs
        )

    layer = MemoryAttentionLayer(
        activation="relu",
        dim_feedforward=96,
        dropout=0.1,
        pos_enc_at_attn=False,
        self_attention=rotary(),
        d_model=d_model,
        pos_enc_at_cross_attn_keys=True,
        pos_enc_at_cross_attn_queries=False,
        cross_attention=rotary(rope_k_repeat=True, kv_in_dim=mem_dim),
    )
    return MemoryAttention(d_model=d_model, pos_enc_at_input=True, layer=layer, num_layers=2).eval()


@pytest.mark.parametrize("products", ["packed", "not packed here", "plain", "fused"])
@pytest.mark.parametrize("queries", [1, 130, 256])
def test_blocked_attention_equals_pytorch_in_fp32(
    queries: int, products: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if products == "not packed here":
        monkeypatch.setattr(attention, "has_packed_linear", lambda: False)
    way = AttentionWay(products) if products in list(AttentionWay) else AttentionWay.PACKED
    torch.manual_seed(0)
    q, k, v = torch.randn(2, queries, 32), torch.randn(2, 77, 32), torch.randn(2, 77, 8)
    bias = torch.rand(77)
    scores = torch.einsum("bnc,bmc->bnm", q, k) / 32**0.5
    expected = torch.softmax(scores + bias, dim=-1) @ v
    assert torch.allclose(attention.attend(q, k, v, key_bias_bm=bias, way=way), expected, atol=1e-5)
    plain = F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])[:, 0]
    assert torch.allclose(attention.attend(q, k, v, way=way), plain, atol=1e-5)


@pytest.mark.parametrize("way", [AttentionWay.PACKED, AttentionWay.FUSED])
def test_bf16_attention_stays_within_bf16_rounding(way: AttentionWay) -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(1, 64, 32), torch.randn(1, 200, 32), torch.randn(1, 200, 8)
    expected = F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])[:, 0]
    got = attention.attend(q, k, v, dtype=torch.bfloat16, way=way)
    assert got.dtype == torch.float32
    assert (got - expected).norm() / expected.norm() < 1e-2


@pytest.mark.parametrize(("frames", "pointers", "batch"), [(1, 0, 1), (3, 4, 1), (2, 8, 2)])
@torch.inference_mode()
def test_fast_memory_attention_equals_sam2(frames: int, pointers: int, batch: int) -> None:
    module = memory_attention(grid=4)
    tokens, total = 16, 16 * frames + pointers
    torch.manual_seed(2)
    arguments = {
        "curr": torch.randn(tokens, batch, 64),
        "curr_pos": torch.randn(tokens, batch, 64),
        "memory": torch.randn(total, batch, 16),
        "memory_pos": torch.randn(total, batch, 16),
        "num_obj_ptr_tokens": pointers,
    }
    expected = module(
        **{name: v.clone() if isinstance(v, torch.Tensor) else v for name, v in arguments.items()}
    )
    for way in AttentionWay:
        exact = FastMemoryAttention(module, way=way)(**arguments)
        assert torch.allclose(exact, expected, atol=2e-5)
    rounded = FastMemoryAttention(module, dtype=torch.bfloat16)(**arguments)
    assert rounded.dtype == torch.float32
    assert (rounded - expected).norm() / expected.norm() < 2e-2


@torch.inference_mode()
def test_log_count_bias_equals_repeating_the_frame() -> None:
    module = memory_attention(grid=4)
    torch.manual_seed(3)
    curr, pos = torch.randn(16, 1, 64), torch.randn(16, 1, 64)
    frame, frame_pos = torch.randn(16, 1, 16), torch.randn(16, 1, 16)
    other, other_pos = torch.randn(16, 1, 16), torch.randn(16, 1, 16)
    repeated = module(curr, torch.cat([frame] * 3 + [other]), pos, torch.cat([frame_pos] * 3 + [other_pos]))
    bias = torch.cat([torch.full((16,), 3.0).log(), torch.zeros(16)])
    merged = FastMemoryAttention(module)(
        curr, torch.cat([frame, other]), pos, torch.cat([frame_pos, other_pos]), key_bias=bias
    )
    assert torch.allclose(merged, repeated, atol=2e-5)


def test_several_heads_are_refused_so_that_the_original_stays() -> None:
    with pytest.raises(UnsupportedModuleError):
        FastMemoryAttention(memory_attention(grid=4, heads=2))
