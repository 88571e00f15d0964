"""SAM 2's mask decoder rewritten for speed; the same function of the same parameters.

A handful of tokens meets thousands of positions X. Per head, exact rewrites keep the positions as they are:
``(x W_k^T) . q = x . (W_k^T q)`` scores them with the few transformed queries, ``P (X W_v^T) = (P X) W_v^T``
mixes them before they are projected, and the other way round the tokens' values pass the output projection
before they are mixed. What is left of each attention over the image is two thin products. Maps keep their
channels last, the four hypernetworks run as one, the position code of the grid is made once.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from sam2.modeling.position_encoding import PositionEmbeddingRandom
from sam2.modeling.sam.mask_decoder import MaskDecoder
from sam2.modeling.sam.transformer import Attention, TwoWayAttentionBlock
from sam2.modeling.sam2_utils import MLP, LayerNorm2d
from torch import Tensor, nn

from qcore.runtime.channels_last import DoublingConv, norm_channels, plain
from qcore.runtime.choice import Choice
from qcore.runtime.errors import UnsupportedModuleError

_MAX_SIZES = 8


class KeptGridPositions(PositionEmbeddingRandom):
    """Drop-in for `PositionEmbeddingRandom` that makes each grid once; grids must not be written to."""

    def __init__(self, source: PositionEmbeddingRandom) -> None:
        nn.Module.__init__(self)
        self.register_buffer(
            "positional_encoding_gaussian_matrix", source.positional_encoding_gaussian_matrix
        )
        self._known: dict[tuple[tuple[int, int], torch.device], Tensor] = {}

    def forward(self, size: tuple[int, int]) -> Tensor:
        """Position code (C, H, W), channels last in memory."""
        matrix: Any = self.positional_encoding_gaussian_matrix
        key = (size, matrix.device)
        known = self._known.get(key)
        if known is None:
            made: Tensor = super().forward(size)
            known = made.permute(1, 2, 0).contiguous().permute(2, 0, 1)
            self._known = {**(self._known if len(self._known) < _MAX_SIZES else {}), key: known}
        return known


def _plain(module: nn.Module) -> bool:
    layers = (getattr(module, f"{name}_proj", None) for name in ("q", "k", "v", "out"))
    return type(module) is Attention and all(type(layer) is nn.Linear for layer in layers)


class _TokensToImage:
    """`Attention` of a few tokens to the image's positions."""

    def __init__(self, source: Attention, dtype: torch.dtype) -> None:
        self.source, self.dtype = source, dtype
        self.heads = source.num_heads
        self.depth = source.internal_dim // source.num_heads
        # (head, depth, channels of the image)
        self.key_hdc = source.k_proj.weight.detach().view(self.heads, self.depth, -1)
        self.value_hdc = source.v_proj.weight.detach().view(self.heads, self.depth, -1)

    def __call__(self, tokens_btc: Tensor, keys_bnc: Tensor, values_bnc: Tensor) -> Tensor:
        """``keys`` and ``values`` in this attention's dtype."""
        batch, count, _ = tokens_btc.shape
        queries = self.source.q_proj(tokens_btc).view(batch, count, self.heads, self.depth)
        # what the keys' bias adds is the same for all positions: softmax does not see it
        asked = torch.einsum("bthd,hdc->bhtc", queries * self.depth**-0.5, self.key_hdc)
        asked = asked.reshape(batch, self.heads * count, -1).to(self.dtype)
        probs = torch.softmax(torch.bmm(asked, keys_bnc.transpose(1, 2)).float(), dim=-1)
        mixed = torch.bmm(probs.to(self.dtype), values_bnc).float()
        mixed = mixed.view(batch, self.heads, count, -1)
        values = torch.einsum("bhtc,hdc->bthd", mixed, self.value_hdc).reshape(batch, count, -1)
        result: Tensor = self.source.out_proj(values + self.source.v_proj.bias)
        return result


class _ImageToTokens:
    """`Attention` of the image's positions to a few tokens."""

    def __init__(self, source: Attention, dtype: torch.dtype) -> None:
        self.source, self.dtype = source, dtype
        self.heads = source.num_heads
        self.depth = source.internal_dim // source.num_heads
        self.query_hdc = source.q_proj.weight.detach().view(self.heads, self.depth, -1)
        self.output_chd = source.out_proj.weight.detach().view(-1, self.heads, self.depth)

    def __call__(self, queries_bnc: Tensor, keys_btc: Tensor, values_btc: Tensor) -> Tensor:
        """``queries`` in this attention's dtype; the result is float32 (b, n, c)."""
        batch, count, _ = keys_btc.shape
        source = self.source
        keys = source.k_proj(keys_btc).view(batch, count, self.heads, self.depth) * self.depth**-0.5
        asked = torch.einsum("bthd,hdc->bhtc", keys, self.query_hdc)
        bias = torch.einsum("bthd,hd->bht", keys, source.q_proj.bias.view(self.heads, self.depth))
        asked = asked.reshape(batch, self.heads * count, -1).to(self.dtype)
        # positions last: a softmax of a few neighbours in memory is several times as slow
        scores = torch.bmm(asked, queries_bnc.transpose(1, 2)).float() + bias.reshape(batch, -1, 1)
        probs = torch.softmax(scores.view(batch, self.heads, count, -1), dim=2).view_as(scores)
        values = source.v_proj(values_btc).view(batch, count, self.heads, self.depth)
        answers = torch.einsum("bthd,chd->bhtc", values, self.output_chd)
        answers = answers.reshape(batch, self.heads * count, -1).to(self.dtype)
        mixed = torch.bmm(probs.to(self.dtype).transpose(1, 2), answers)
        return mixed.float() + source.out_proj.bias


class FastMaskDecoder(MaskDecoder):
    """Drop-in for `MaskDecoder` at inference, in float32 or bfloat16; choosing among masks stays upstream's.

    Attentions and linear layers that are quantized are called as they are.

    Args:
        source: the module; its parts become this one's.
        dtype: of the products with the image's positions.
        rows_hint: positions of the top feature map to expect.
        choice: of the kernels of quantized layers.

    Raises:
        UnsupportedModuleError: it is built differently from SAM 2's, or still being calibrated.
    """

    def __init__(
        self, source: MaskDecoder, dtype: torch.dtype, rows_hint: int, choice: Choice = True
    ) -> None:
        nn.Module.__init__(self)
        self.__dict__.update({k: v for k, v in source.__dict__.items() if not k.startswith("_")})
        self._modules.update(source._modules)
        self._dtype = dtype
        kinds = (nn.ConvTranspose2d, LayerNorm2d, nn.GELU, nn.ConvTranspose2d, nn.GELU)
        if tuple(type(plain(part)) for part in source.output_upscaling) != kinds:
            raise UnsupportedModuleError("The mask decoder's upscaling is not SAM 2's.")
        blocks = source.transformer.layers
        if any(type(block) is not TwoWayAttentionBlock for block in blocks):
            raise UnsupportedModuleError("The mask decoder's transformer is not SAM 2's.")
        first, norm, _, second, _ = source.output_upscaling
        self._grow = [
            DoublingConv(first, dtype, rows_hint, choice), DoublingConv(second, dtype, 4 * rows_hint, choice)
        ]  # fmt: skip
        self.output_upscaling = norm
        last = source.transformer.final_attn_token_to_image
        asking = [block.cross_attn_token_to_image for block in blocks] + [last]
        self._asking = [_TokensToImage(part, dtype) if _plain(part) else None for part in asking]
        answering = [block.cross_attn_image_to_token for block in blocks]
        self._answering = [_ImageToTokens(part, dtype) if _plain(part) else None for part in answering]
        networks = list(source.output_hypernetworks_mlps)
        self._together = _Together(networks) if _Together.can_join(networks) else None

    def predict_masks(
        self,
        image_embeddings: Tensor,
        image_pe: Tensor,
        sparse_prompt_embeddings: Tensor,
        dense_prompt_embeddings: Tensor,
        repeat_image: bool,
        high_res_features: list[Tensor] | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """As upstream: masks (B, M, H, W), their quality (B, M), mask tokens (B, M, C), presence (B, 1)."""
        own = [self.obj_score_token.weight] if self.pred_obj_scores else []
        own += [self.iou_token.weight, self.mask_tokens.weight]
        batch = sparse_prompt_embeddings.shape[0]
        tokens = torch.cat([torch.cat(own).expand(batch, -1, -1), sparse_prompt_embeddings], dim=1)
        if repeat_image:
            image_embeddings = image_embeddings.expand(batch, -1, -1, -1)
        image_bchw = image_embeddings + dense_prompt_embeddings
        height, width = image_bchw.shape[-2:]
        queries, keys_bnc = self._transform(
            image_bchw.flatten(2).transpose(1, 2).contiguous(),
            image_pe.flatten(2).transpose(1, 2),
            tokens,
        )
        first = 1 if self.pred_obj_scores else 0
        mask_tokens = queries[:, first + 1 : first + 1 + self.num_mask_tokens]
        fine_bhwc = self._upscale(keys_bnc.view(batch, height, width, -1), high_res_features)
        fine_bnc = fine_bhwc.flatten(1, 2)
        masks = torch.bmm(self._hyper(mask_tokens), fine_bnc.transpose(1, 2))
        quality: Tensor = self.iou_prediction_head(queries[:, first])
        if self.pred_obj_scores:
            presence: Tensor = self.pred_obj_score_head(queries[:, 0])
        else:
            presence = 10.0 * quality.new_ones(batch, 1)
        return masks.view(batch, -1, 4 * height, 4 * width), quality, mask_tokens, presence

    def _transform(self, keys_bnc: Tensor, code_1nc: Tensor, tokens_btc: Tensor) -> tuple[Tensor, Tensor]:
        """The two-way transformer: tokens and positions after it."""
        transformer = self.transformer
        queries = tokens_btc
        for index, block in enumerate(transformer.layers):
            if block.skip_first_layer_pe:
                queries = block.self_attn(q=queries, k=queries, v=queries)
            else:
                asking = queries + tokens_btc
                queries = queries + block.self_attn(q=asking, k=asking, v=queries)
            queries = block.norm1(queries)
            coded_bnc = keys_bnc + code_1nc
            attention = block.cross_attn_token_to_image
            asked = self._ask(index, attention, queries + tokens_btc, coded_bnc, keys_bnc)
            queries = block.norm2(queries + asked)
            queries = block.norm3(queries + block.mlp(queries))
            fast = self._answering[index]
            if fast is None:
                answers = block.cross_attn_image_to_token(q=coded_bnc, k=queries + tokens_btc, v=queries)
            else:
                answers = fast(coded_bnc.to(self._dtype), queries + tokens_btc, queries)
            keys_bnc = block.norm4(keys_bnc + answers)
        last = transformer.final_attn_token_to_image
        coded_bnc = keys_bnc + code_1nc
        queries = queries + self._ask(-1, last, queries + tokens_btc, coded_bnc, keys_bnc)
        return transformer.norm_final_attn(queries), keys_bnc

    def _ask(
        self, index: int, attention: nn.Module, tokens_btc: Tensor, coded_bnc: Tensor, keys_bnc: Tensor
    ) -> Tensor:
        fast = self._asking[index]
        if fast is not None:
            return fast(tokens_btc, coded_bnc.to(self._dtype), keys_bnc.to(self._dtype))
        asked: Tensor = attention(q=tokens_btc, k=coded_bnc, v=keys_bnc)
        return asked

    def _hyper(self, tokens_bmc: Tensor) -> Tensor:
        if self._together is not None:
            return self._together(tokens_bmc)
        networks = self.output_hypernetworks_mlps
        return torch.stack([network(tokens_bmc[:, i]) for i, network in enumerate(networks)], dim=1)

    def _upscale(self, x_bhwc: Tensor, high_res_features: list[Tensor] | None) -> Tensor:
        """Four times the sides, float32 (B, 4H, 4W, C)."""
        first, second = self._grow
        norm = self.output_upscaling
        x_bhwc = first(x_bhwc).float()
        if self.use_high_res_features and high_res_features is not None:
            x_bhwc = x_bhwc + high_res_features[1].permute(0, 2, 3, 1)
        x_bhwc = second(F.gelu(norm_channels(norm, x_bhwc))).float()
        if self.use_high_res_features and high_res_features is not None:
            x_bhwc = x_bhwc + high_res_features[0].permute(0, 2, 3, 1)
        return F.gelu(x_bhwc)


class _Together:
    """Equal `MLP`s, each for its own token, as one."""

    def __init__(self, sources: list[MLP]) -> None:
        self._layers: list[tuple[Tensor, Tensor]] = []
        for layers in zip(*(source.layers for source in sources), strict=True):
            weight_mio = torch.stack([layer.weight.detach().t() for layer in layers]).contiguous()
            self._layers.append((weight_mio, torch.stack([layer.bias.detach() for layer in layers])))

    @classmethod
    def can_join(cls, sources: list[MLP]) -> bool:
        """False where they are not SAM 2's, or quantized."""
        return all(
            type(source.act) is nn.ReLU
            and not source.sigmoid_output
            and all(type(layer) is nn.Linear for layer in source.layers)
            for source in sources
        )

    def __call__(self, tokens_bmc: Tensor) -> Tensor:
        """Map (B, M, C) to (B, M, C')."""
        x_mbc = tokens_bmc.transpose(0, 1)
        for index, (weight_mio, bias_mo) in enumerate(self._layers):
            x_mbc = torch.baddbmm(bias_mo[:, None], x_mbc, weight_mio)
            if index + 1 < len(self._layers):
                x_mbc = F.relu(x_mbc)
        return x_mbc.transpose(0, 1)
