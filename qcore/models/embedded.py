"""The compact SAM 2: an EfficientNet-Lite trunk, everything else from the `sam2` package.

Its dimensions are an `EmbeddedArch`, stored as JSON in the metadata of the weights file, so that a
differently sized model is another file and no code. Nothing here reads files; see `loading`.

Every convolution is a plain `torch.nn.Conv2d` and every activation a plain `torch.nn.ReLU6`, so that
quantization and the runtime find and replace them like any other module. The activations work in place (a
third of the trunk's time otherwise): a hook that keeps a convolution's output must copy it.
"""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from typing import Any

import torch
from sam2.modeling.backbones.image_encoder import FpnNeck, ImageEncoder
from sam2.modeling.memory_attention import MemoryAttention, MemoryAttentionLayer
from sam2.modeling.memory_encoder import CXBlock, Fuser, MaskDownSampler, MemoryEncoder
from sam2.modeling.position_encoding import PositionEmbeddingSine
from sam2.modeling.sam.transformer import RoPEAttention
from sam2.modeling.sam2_base import SAM2Base
from torch import Tensor, nn

from qcore.models.doubt_head import add_doubt_head
from qcore.models.errors import ModelError

ARCH_METADATA_KEY = "embedded_arch"
"""Key of the architecture's JSON in the safetensors metadata."""

MIN_INPUT_SIZE, MAX_INPUT_SIZE = 64, 2048
INPUT_SIZE_STEP = 32
"""The coarsest trunk level has stride 32; a smaller step would make the levels not fit each other."""

COORDINATE_CHANNELS = 14
"""x, y, and sine and cosine of three octaves of each."""
_COORDINATE_GAIN = 2.0

# Stages of EfficientNet-Lite: kernel, stride, expansion, output channels, repeats. Lite scales the width of
# all but the stem, and the repeats of all but the first and the last stage.
_STAGES = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)
_STEM_CHANNELS = 32
_OUTPUT_STAGES = (1, 2, 4, 6)
"""Stages whose output leaves the trunk: strides 4, 8, 16 and 32."""
TRUNKS = {"lite0": (1.0, 1.0), "lite1": (1.0, 1.1), "lite2": (1.1, 1.2)}
"""Name to (width factor, depth factor)."""


@dataclass(frozen=True, slots=True)
class EmbeddedArch:
    """Dimensions of a compact SAM 2.

    Raises:
        ModelError: a value is outside its bounds, or the values do not fit each other.
    """

    input_size: int = 384
    """Side of the square input in pixels, a multiple of 32."""
    d_model: int = 128
    mem_dim: int = 64
    """Channels of a memory feature map and of an object pointer's token."""
    memory_layers: int = 2
    """Layers of the memory attention."""
    ffn_dim: int = 512
    """Hidden width of a memory-attention layer's feed-forward part."""
    num_maskmem: int = 4
    """Memories that a frame attends to, the prompted frame included."""
    max_object_pointers: int = 4
    fuser_layers: int = 2
    """ConvNeXt blocks that fuse mask and image features in the memory encoder."""
    trunk: str = "lite0"
    """A key of `TRUNKS`."""
    coordinate_channels: bool = True
    """Append the pixel's position to the trunk outputs of strides 4, 8 and 16."""
    feature_rms: tuple[float, float, float, float] = (8.53, 7.47, 6.49, 2.69)
    """Root mean square of the trunk outputs (strides 4, 8, 16, 32) on natural images: they are divided by it,
    because raw ones drown the prompt's unit-scale codes."""
    doubt_head: bool = False
    """Whether there is a head that says which tracked masks are not to be shown (`doubt_head.py`)."""

    def __post_init__(self) -> None:
        check_image_size(self.input_size)
        _check_int("d_model", self.d_model, 32, 512, 32)
        _check_int("mem_dim", self.mem_dim, 16, 256, 16)
        _check_int("memory_layers", self.memory_layers, 1, 8)
        _check_int("ffn_dim", self.ffn_dim, 32, 4096)
        _check_int("num_maskmem", self.num_maskmem, 1, 16)
        _check_int("max_object_pointers", self.max_object_pointers, 1, 64)
        _check_int("fuser_layers", self.fuser_layers, 1, 8)
        if not isinstance(self.trunk, str) or self.trunk not in TRUNKS:
            raise ModelError(f"The model names the unknown trunk {self.trunk!r}; known: {', '.join(TRUNKS)}.")
        for name in ("coordinate_channels", "doubt_head"):
            if not isinstance(getattr(self, name), bool):
                raise ModelError(f"The model's {name} must be true or false.")
        if len(self.feature_rms) != 4 or not all(
            isinstance(v, (int, float)) and math.isfinite(v) and 1e-4 <= v <= 1e4 for v in self.feature_rms
        ):
            raise ModelError("The model's feature_rms must be four numbers between 0.0001 and 10000.")
        if self.d_model % self.mem_dim:
            # SAM 2 splits an object pointer into d_model / mem_dim memory tokens
            raise ModelError("The model's d_model must be a multiple of its mem_dim.")

    def to_json(self) -> str:
        """The text that goes into the weights file's metadata."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> EmbeddedArch:
        """Read `to_json`'s text from an untrusted file; fields left out take their default.

        Raises:
            ModelError: not an object, unknown fields, or values outside their bounds.
        """
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ModelError("The model's description of itself is not valid JSON.") from error
        if not isinstance(value, dict):
            raise ModelError("The model's description of itself is not a JSON object.")
        unknown = sorted(set(value) - {field.name for field in dataclasses.fields(cls)})
        if unknown:
            raise ModelError(
                f"The model needs a newer version of this program (unknown: {', '.join(unknown)})."
            )
        if "feature_rms" in value:
            if not isinstance(value["feature_rms"], list):
                raise ModelError("The model's feature_rms must be four numbers between 0.0001 and 10000.")
            value["feature_rms"] = tuple(value["feature_rms"])
        return cls(**value)


def _check_int(name: str, value: object, low: int, high: int, step: int = 1) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high or value % step:
        multiple = f" and a multiple of {step}" if step > 1 else ""
        raise ModelError(f"The model's {name} must be a whole number from {low} to {high}{multiple}.")


def check_image_size(size: object) -> None:
    """Refuse an input size that SAM 2 cannot work at.

    Raises:
        ModelError: not a multiple of 32 between 64 and 2048.
    """
    _check_int("input size", size, MIN_INPUT_SIZE, MAX_INPUT_SIZE, INPUT_SIZE_STEP)


def _strided_padding(kernel: int) -> nn.ZeroPad2d:
    """TensorFlow's "same" padding for stride 2 and an even input: more on the right and bottom."""
    before, after = (kernel - 2) // 2, (kernel - 2) - (kernel - 2) // 2
    return nn.ZeroPad2d((before, after, before, after))


class InvertedBottleneck(nn.Module):
    """Expand, filter depth-wise, project; batch norm is folded into the convolutions.

    (B, C_in, H, W) -> (B, C_out, H / stride, W / stride).
    """

    def __init__(
        self,
        kernel: int,
        stride: int,
        expansion: int,
        in_channels: int,
        out_channels: int,
        extended: bool = False,
    ) -> None:
        super().__init__()
        hidden = in_channels * expansion
        self.has_residual = stride == 1 and in_channels == out_channels
        self.exp = nn.Conv2d(in_channels, hidden, 1) if expansion > 1 else None
        if stride == 1 or extended:
            kernel += 2 * extended
            self.pad: nn.Module = nn.Identity()
            self.dw = nn.Conv2d(hidden, hidden, kernel, stride, kernel // 2, groups=hidden)
        else:
            self.pad = _strided_padding(kernel)
            self.dw = nn.Conv2d(hidden, hidden, kernel, stride, groups=hidden)
        self.pw = nn.Conv2d(hidden, out_channels, 1)
        self.act = nn.ReLU6(inplace=True)

    def forward(self, x_bchw: Tensor) -> Tensor:
        """See the class."""
        y_bchw = x_bchw if self.exp is None else self.act(self.exp(x_bchw))
        y_bchw = self.pw(self.act(self.dw(self.pad(y_bchw))))
        return x_bchw + y_bchw if self.has_residual else y_bchw


class EfficientNetLiteTrunk(nn.Module):
    """EfficientNet-Lite without its head: (B, 3, S, S) -> four feature maps of strides 4, 8, 16 and 32.

    Input is normalised as SAM 2 does (ImageNet mean and deviation) and renormalised here to what
    EfficientNet-Lite was trained with ((pixel - 127) / 128). ``channel_list`` holds the outputs' channels
    from coarse to fine, as SAM 2's neck wants it.
    """

    input_scale: Tensor
    input_shift: Tensor

    def __init__(self, arch: EmbeddedArch) -> None:
        super().__init__()
        width, depth = TRUNKS[arch.trunk]
        # The stem and the first strided block hold their kernels with a border of zeros on the top and left:
        # symmetric padding then computes the asymmetric one without a padded copy of the largest maps.
        self.stem = nn.Conv2d(3, _STEM_CHANNELS, 5, 2, 2)
        self.act = nn.ReLU6(inplace=True)
        blocks: list[nn.Module] = []
        self.output_blocks: list[int] = []
        channels = _STEM_CHANNELS
        output_channels: list[int] = []
        for stage, (kernel, stride, expansion, base_channels, base_repeats) in enumerate(_STAGES):
            out_channels = _round_channels(base_channels * width)
            is_end = stage in (0, len(_STAGES) - 1)
            repeats = base_repeats if is_end else math.ceil(base_repeats * depth)
            for repeat in range(repeats):
                blocks.append(
                    InvertedBottleneck(
                        kernel,
                        stride if repeat == 0 else 1,
                        expansion,
                        channels,
                        out_channels,
                        extended=len(blocks) == 1,
                    )
                )
                channels = out_channels
            if stage in _OUTPUT_STAGES:
                self.output_blocks.append(len(blocks) - 1)
                output_channels.append(out_channels)
        self.blocks = nn.ModuleList(blocks)
        self.feature_rms = arch.feature_rms
        self.has_coordinates = arch.coordinate_channels
        extra = COORDINATE_CHANNELS if arch.coordinate_channels else 0
        self.channel_list = [
            channels + (extra if level < 3 else 0) for level, channels in enumerate(output_channels)
        ][::-1]
        mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
        self.register_buffer("input_scale", (deviation * 255 / 128).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("input_shift", ((mean * 255 - 127) / 128).view(1, 3, 1, 1), persistent=False)
        self._coordinates: dict[tuple[int, int], Tensor] = {}

    def forward(self, image_bchw: Tensor) -> list[Tensor]:
        """See the class; the list goes from fine to coarse."""
        x_bchw = image_bchw * self.input_scale + self.input_shift
        x_bchw = x_bchw.contiguous(memory_format=torch.channels_last)
        x_bchw = self.act(self.stem(x_bchw))
        outputs: list[Tensor] = []
        for index, block in enumerate(self.blocks):
            x_bchw = block(x_bchw)
            if index in self.output_blocks:
                level = len(outputs)
                scaled = x_bchw / self.feature_rms[level]
                has_coordinates = self.has_coordinates and level < 3
                outputs.append(self._with_coordinates(scaled) if has_coordinates else scaled)
        return outputs

    def _with_coordinates(self, features_bchw: Tensor) -> Tensor:
        batch, _, height, width = features_bchw.shape
        coordinates = self._coordinates.get((height, width))
        if coordinates is None or coordinates.device != features_bchw.device:
            coordinates = coordinate_channels(height, width).to(features_bchw.device)
            self._coordinates[height, width] = coordinates
        coordinates = coordinates.to(features_bchw.dtype).expand(batch, -1, -1, -1)
        return torch.cat([features_bchw, coordinates], 1)


def coordinate_channels(height: int, width: int) -> Tensor:
    """Each pixel's position, which a convolutional trunk lacks: float32 (1, 14, height, width) in -2..2."""
    y_hw, x_hw = torch.meshgrid(
        (torch.arange(height) + 0.5) / height * 2 - 1,
        (torch.arange(width) + 0.5) / width * 2 - 1,
        indexing="ij",
    )
    channels = [x_hw, y_hw]
    for axis in (x_hw, y_hw):
        for octave in (0.5, 1, 2):
            channels += [torch.sin(math.pi * octave * axis), torch.cos(math.pi * octave * axis)]
    return torch.stack(channels)[None].float() * _COORDINATE_GAIN


def _round_channels(channels: float) -> int:
    """The nearest multiple of 8, but never less than 90 % of the wish (EfficientNet's rule)."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


def embedded_parts(arch: EmbeddedArch) -> dict[str, Any]:
    """Keyword arguments for `SAM2Base` (or a subclass of it) that make the compact model of ``arch``."""
    tokens_side = arch.input_size // 16

    def position_encoding(channels: int) -> PositionEmbeddingSine:
        return PositionEmbeddingSine(
            num_pos_feats=channels, normalize=True, scale=None, temperature=10000, image_size=arch.input_size
        )

    def attention(**kwargs: Any) -> RoPEAttention:
        return RoPEAttention(
            rope_theta=10000.0,
            feat_sizes=[tokens_side, tokens_side],
            embedding_dim=arch.d_model,
            num_heads=1,
            downsample_rate=1,
            dropout=0.0,
            **kwargs,
        )

    trunk = EfficientNetLiteTrunk(arch)
    image_encoder = ImageEncoder(
        scalp=1,
        trunk=trunk,
        neck=FpnNeck(
            position_encoding=position_encoding(arch.d_model),
            d_model=arch.d_model,
            backbone_channel_list=trunk.channel_list,
            fpn_top_down_levels=[2, 3],
            fpn_interp_model="nearest",
        ),
    )
    memory_attention = MemoryAttention(
        d_model=arch.d_model,
        pos_enc_at_input=True,
        num_layers=arch.memory_layers,
        layer=MemoryAttentionLayer(
            activation="relu",
            dim_feedforward=arch.ffn_dim,
            dropout=0.0,
            pos_enc_at_attn=False,
            self_attention=attention(),
            d_model=arch.d_model,
            pos_enc_at_cross_attn_keys=True,
            pos_enc_at_cross_attn_queries=False,
            cross_attention=attention(rope_k_repeat=True, kv_in_dim=arch.mem_dim),
        ),
    )
    memory_encoder = MemoryEncoder(
        out_dim=arch.mem_dim,
        in_dim=arch.d_model,
        position_encoding=position_encoding(arch.mem_dim),
        mask_downsampler=MaskDownSampler(embed_dim=arch.d_model, kernel_size=3, stride=2, padding=1),
        fuser=Fuser(
            # upstream's initial layer scale of 1e-6 would keep short trainings from ever using these blocks
            layer=CXBlock(
                dim=arch.d_model, kernel_size=7, padding=3, layer_scale_init_value=0.1, use_dwconv=True
            ),
            num_layers=arch.fuser_layers,
        ),
    )
    return {
        "image_encoder": image_encoder,
        "memory_attention": memory_attention,
        "memory_encoder": memory_encoder,
        "num_maskmem": arch.num_maskmem,
        "image_size": arch.input_size,
        "sigmoid_scale_for_mem_enc": 20.0,
        "sigmoid_bias_for_mem_enc": -10.0,
        "use_mask_input_as_output_without_sam": True,
        "directly_add_no_mem_embed": True,
        "no_obj_embed_spatial": True,
        "use_high_res_features_in_sam": True,
        "multimask_output_in_sam": True,
        "multimask_min_pt_num": 1,
        "multimask_max_pt_num": 1,
        "multimask_output_for_tracking": False,
        "use_multimask_token_for_obj_ptr": False,
        "iou_prediction_use_sigmoid": True,
        "use_obj_ptrs_in_encoder": True,
        "max_obj_ptrs_in_encoder": arch.max_object_pointers,
        "add_tpos_enc_to_obj_ptrs": True,
        "proj_tpos_enc_in_obj_ptrs": True,
        "use_signed_tpos_enc_to_obj_ptrs": True,
        "only_obj_ptrs_in_the_past_for_eval": True,
        "pred_obj_scores": True,
        "pred_obj_scores_mlp": True,
        "fixed_no_obj_ptr": True,
        "use_mlp_for_obj_ptr_proj": True,
    }


def build_embedded(arch: EmbeddedArch, base: type[SAM2Base] = SAM2Base, **extra: Any) -> SAM2Base:
    """The compact model with random weights, in eval mode.

    Args:
        arch: its dimensions.
        base: class to build, e.g. a training subclass or upstream's `SAM2VideoPredictor`.
        extra: further keyword arguments of that class.
    """
    model = base(**embedded_parts(arch), **extra)
    if arch.doubt_head:
        add_doubt_head(model)
    model.eval()
    return model


def set_image_size(model: SAM2Base, image_size: int) -> None:
    """Make a built model work on square inputs of another side (a multiple of 32 pixels).

    SAM 2 keeps the size in five places; its rotary position tables follow by themselves.

    Raises:
        ModelError: the size is out of bounds.
    """
    check_image_size(image_size)
    side = image_size // model.backbone_stride
    model.image_size = image_size
    model.sam_image_embedding_size = side
    prompt_encoder = model.sam_prompt_encoder
    prompt_encoder.input_image_size = (image_size, image_size)
    prompt_encoder.image_embedding_size = (side, side)
    prompt_encoder.mask_input_size = (4 * side, 4 * side)
