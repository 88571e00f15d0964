"""Which layers are quantized, to how many bits, and why the others are not: a plan before anything is
touched.

The paper quantizes image encoder, memory attention and mask decoder, "first and last layers exempt". For
SAM 2 that reads: first = the patch embedding, last = the mask head's upscaling, hypernetworks, IoU and
object-score heads and the two high-resolution 1x1 convolutions. Our light trunk has no one patch embedding:
its stem and its first two blocks (9,440 weights, 0.2 %) together bring the picture to a quarter of its side,
and with the first depthwise filter alone in 6 bits the finest features fall to 13-16 dB. Memory encoder,
prompt encoder and pointer projections lie outside the paper's three modules. Plans are data: printable,
testable without a forward pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase

from torch import nn

from qcore.quant.affine import QuantizationError
from qcore.quant.attention import quantized_class
from qcore.quant.config import QuantConfig
from qcore.quant.layers import WEIGHT_LAYERS

SCOPE = ("image_encoder.*", "memory_attention.*", "sam_mask_decoder.*")
EXEMPT = (
    "image_encoder.trunk.patch_embed.proj",
    "image_encoder.trunk.stem*",
    "image_encoder.trunk.blocks.0.pw",
    "image_encoder.trunk.blocks.0.dw",
    "image_encoder.trunk.blocks.1.exp",
    "image_encoder.trunk.blocks.1.dw",
    "image_encoder.trunk.blocks.1.pw",
    "sam_mask_decoder.conv_s0",
    "sam_mask_decoder.conv_s1",
    "sam_mask_decoder.output_upscaling.*",
    "sam_mask_decoder.output_hypernetworks_mlps.*",
    "sam_mask_decoder.iou_prediction_head.*",
    "sam_mask_decoder.pred_obj_score_head*",
)
UNTOUCHED = ("sam_mask_decoder.pred_obj_score_head.doubt.*",)
"""What calibration leaves alone: some hundred weights that no module of SAM 2's calls (`doubt_head.py`)."""


class Role(StrEnum):
    """How a layer is treated."""

    QUANTIZED = "quantized"
    EXEMPT = "first or last layer"
    OPTIONAL = "outside the three modules"
    EXCLUDED = "excluded"


@dataclass(frozen=True, slots=True)
class LayerPlan:
    """The decision for one layer with weights. Bits None = floating point."""

    name: str
    kind: str
    weights: int
    role: Role
    weight_bits: int | None
    activation_bits: int | None


@dataclass(frozen=True, slots=True)
class AttentionPlan:
    """The decision for one attention's two products; always the configuration's activation and softmax
    bits.
    """

    name: str
    activation_bits: int
    softmax_bits: int


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything `insert` will do, in module order."""

    layers: tuple[LayerPlan, ...]
    attentions: tuple[AttentionPlan, ...]

    def table(self) -> str:
        """For people: one line a layer."""
        rows = [("layer", "kind", "weights", "W", "A", "treatment")]
        for layer in self.layers:
            rows.append(
                (
                    layer.name,
                    layer.kind,
                    f"{layer.weights:,}",
                    _bits(layer.weight_bits),
                    _bits(layer.activation_bits),
                    layer.role.value,
                )
            )
        for attention in self.attentions:
            bits = f"P{attention.softmax_bits}"
            rows.append(
                (attention.name, "attention", "", "", f"{attention.activation_bits} {bits}", "q, k, v, P")
            )
        widths = [max(len(row[i]) for row in rows) for i in range(6)]
        return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths)) for row in rows)

    @property
    def quantized_share(self) -> float:
        """Share of these layers' weights that is stored as integers, 0..1."""
        total = sum(layer.weights for layer in self.layers)
        return sum(layer.weights for layer in self.layers if layer.weight_bits is not None) / max(1, total)


def _bits(bits: int | None) -> str:
    return "fp" if bits is None else str(bits)


def matches(name: str, patterns: Sequence[str]) -> bool:
    """True when one of the globs fits the whole name."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def make_plan(model: nn.Module, config: QuantConfig) -> Plan:
    """Decide for every layer of ``model``.

    Raises:
        QuantizationError: a pattern of the configuration matches nothing (a typing error would pass unseen).
    """
    layers: list[LayerPlan] = []
    attentions: list[AttentionPlan] = []
    names = [name for name, module in model.named_modules() if isinstance(module, WEIGHT_LAYERS)]
    attention_names = [n for n, m in model.named_modules() if quantized_class(m) is not None]
    for pattern in (*config.include, *config.exclude, *(o.pattern for o in config.overrides)):
        if not any(fnmatchcase(name, pattern) for name in (*names, *attention_names)):
            raise QuantizationError(f"No layer is called {pattern!r}.")
    for name, module in model.named_modules():
        if isinstance(module, WEIGHT_LAYERS):
            layers.append(_plan_layer(name, module, config))
        elif quantized_class(module) is not None and _wanted(name, config):
            attentions.append(AttentionPlan(name, config.activations.bits, config.softmax.bits))
    return Plan(tuple(layers), tuple(attentions))


def _wanted(name: str, config: QuantConfig) -> bool:
    return matches(name, SCOPE) and matches(name, config.include) and not matches(name, config.exclude)


def _plan_layer(name: str, module: nn.Module, config: QuantConfig) -> LayerPlan:
    kind, weights = type(module).__name__, module.get_parameter("weight").numel()
    if not matches(name, config.include) or matches(name, (*config.exclude, *UNTOUCHED)):
        return LayerPlan(name, kind, weights, Role.EXCLUDED, None, None)
    if matches(name, EXEMPT):
        role, w_bits, a_bits = Role.EXEMPT, config.exempt_bits, config.exempt_bits
    elif matches(name, SCOPE):
        role, w_bits, a_bits = Role.QUANTIZED, config.weights.bits, config.activations.bits
    else:
        role, w_bits, a_bits = Role.OPTIONAL, config.optional_bits, config.optional_bits
        if w_bits is not None and config.optional_weight_bits is not None:
            w_bits = config.optional_weight_bits
    for override in config.overrides:
        if fnmatchcase(name, override.pattern):
            w_bits, a_bits = override.weight_bits, override.activation_bits
    if w_bits is None:
        a_bits = None
    return LayerPlan(name, kind, weights, role, w_bits, a_bits)
