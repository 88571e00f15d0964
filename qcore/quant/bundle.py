"""Bundles: a quantized model in one safetensors file with really packed weights, written and read back.

Tensors: ``weight.codes.wN`` for every width N (U8, the Huffman-coded codes of all layers of N bits, by name,
row by row), ``weight.scale`` (F16 or F32) and ``weight.zero_point`` (U8) of all layers by name,
``activation.scale`` and ``activation.zero_point`` (all activation parameters in the order of
`activation_slots`), and every unquantized parameter under its own name (F16, or
F32 where F16 overflows). Which names, shapes and dtypes a file must have follows from its header and our
own code, never from the file's names.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sam2.modeling.sam2_base import SAM2Base
from torch import Tensor, nn

from qcore.models.embedded import build_embedded, set_image_size
from qcore.models.official import build_official
from qcore.models.registry import MODELS
from qcore.quant.affine import QuantizationError, dequantize, quant_max
from qcore.quant.attention import QuantizedProducts, quantized_class
from qcore.quant.bundle_format import BundleError, BundleFile, open_bundle_file, write_bundle_file
from qcore.quant.bundle_header import (
    AttentionHeader,
    BundleHeader,
    LayerHeader,
    ModelDescription,
    parse_header,
)
from qcore.quant.fake_quantize import ActivationQuantizer, QuantizerState, WeightQuantizer, set_state
from qcore.quant.insertion import head_width
from qcore.quant.layers import WEIGHT_LAYERS, QuantizedLayer, output_axis
from qcore.quant.packing import decode_codes, encode_codes, most_bytes, row_bytes, unpack_rows
from qcore.quant.softmax_quantizer import LogSoftmaxQuantizer

_OPERANDS = ("query", "key", "value", "probs")


def rows_of(weight: Tensor, axis: int) -> Tensor:
    """(rows, columns): one row an output channel, in the order the file stores."""
    return weight.movedim(axis, 0).flatten(1)


def save_bundle(
    path: Path,
    model: nn.Module,
    description: ModelDescription,
    information: dict[str, Any],
    mutual_kv: Any = None,
) -> int:
    """Write a frozen quantized model; returns the file's size in bytes.

    Args:
        path: where to; replaced only once the new file is complete.
        model: output of `qcore.quant.pipeline.quantize_model`: every weight quantizer frozen.
        description: the architecture and the original it came from.
        information: JSON-ready provenance under the names of the header's schema (method, bits, config, ...).
        mutual_kv: a `MutualKvHeader`, or None.

    Raises:
        QuantizationError: a weight has no final codes.
    """
    header = BundleHeader(
        description,
        {name: _layer_header(name, layer) for name, layer in _layers(model)},
        {name: _attention_header(attention) for name, attention in _attentions(model)},
        mutual_kv,
        "",
        information,
    )
    write_bundle_file(path, _tensors(model, header), header.to_dict())
    return path.stat().st_size


def load_bundle(path: str | Path) -> SAM2Base:
    """The quantized model in a bundle, on the CPU, in eval mode, ready to run.

    Its ``bundle_header`` attribute is the validated `BundleHeader`.

    Raises:
        BundleError: the file is damaged, of a newer version, or not a bundle.
    """
    file = open_bundle_file(Path(path))
    header = parse_header(file.header)
    _check_size(file, header)
    model = _build(header.model)
    _check_tensor_table(file, header, model)
    if file.payload_sha256() != header.payload_sha256:
        raise BundleError(f"{file.path.name} is damaged: its checksum is wrong.")
    _insert_from_header(model, header)
    _fill(model, file, header)
    model.eval().requires_grad_(False)
    model.bundle_header = header
    return model


def read_header(path: str | Path) -> BundleHeader:
    """Only the validated header of a bundle.

    Raises:
        BundleError: the file is damaged, of a newer version, or not a bundle.
    """
    return parse_header(open_bundle_file(Path(path)).header)


def _layers(model: nn.Module) -> Iterator[tuple[str, QuantizedLayer]]:
    return ((name, module) for name, module in model.named_modules() if isinstance(module, QuantizedLayer))


def _attentions(model: nn.Module) -> Iterator[tuple[str, QuantizedProducts]]:
    return ((name, module) for name, module in model.named_modules() if isinstance(module, QuantizedProducts))


def _layer_header(name: str, layer: QuantizedLayer) -> LayerHeader:
    if not layer.weight_quantizer.is_frozen:
        raise QuantizationError(f"The weight of {name} is not quantized to final codes yet.")
    quantizer = layer.input_quantizer
    return LayerHeader(
        layer.weight_quantizer.bits,
        None if quantizer is None else quantizer.bits,
        quantizer is not None and quantizer.axis is not None,
        layer.weight_quantizer.symmetric,
        tuple(layer.weight.shape),
    )


def _attention_header(attention: QuantizedProducts) -> AttentionHeader:
    probs = attention.probs_quantizer
    is_log = isinstance(probs, LogSoftmaxQuantizer)
    return AttentionHeader(
        attention.query_quantizer.bits,
        attention.value_quantizer.axis is not None,
        "log2" if is_log else "affine",
        probs.bits,
        probs.tau if isinstance(probs, LogSoftmaxQuantizer) else 1,
        probs.row_scale if isinstance(probs, LogSoftmaxQuantizer) else False,
    )


def activation_slots(header: BundleHeader, model: nn.Module) -> list[tuple[str, int, int]]:
    """(quantizer's name, parameters, bits) of every activation quantizer, in the file's order."""
    slots: list[tuple[str, int, int]] = []
    for name, layer in sorted(header.layers.items()):
        if layer.activation_bits is not None:
            count = layer.shape[0] if layer.per_channel_input else 1
            slots.append((f"{name}.input_quantizer", count, layer.activation_bits))
    for name, attention in sorted(header.attentions.items()):
        width = head_width(model.get_submodule(name))
        for operand in _OPERANDS:
            bits = attention.softmax_bits if operand == "probs" else attention.activation_bits
            count = width if operand == "value" and attention.value_per_channel else 1
            slots.append((f"{name}.{operand}_quantizer", count, bits))
    return slots


def codes_name(bits: int) -> str:
    """The tensor that holds the codes of all layers of ``bits`` bits."""
    return f"weight.codes.w{bits}"


def _tensors(model: nn.Module, header: BundleHeader) -> dict[str, npt.NDArray[Any]]:
    tensors: dict[str, npt.NDArray[Any]] = {}
    weights = [layer.weight_quantizer for _, layer in sorted(_layers(model), key=lambda item: item[0])]
    for bits in sorted({quantizer.bits for quantizer in weights}):
        codes = [
            rows_of(quantizer.codes.cpu(), quantizer.axis).flatten()
            for quantizer in weights
            if quantizer.bits == bits and quantizer.codes is not None
        ]
        tensors[codes_name(bits)] = encode_codes(torch.cat(codes).numpy())
    tensors["weight.scale"] = _smallest_float(torch.cat([quantizer.scale for quantizer in weights]))
    zero_points = torch.cat([quantizer.zero_point for quantizer in weights])
    tensors["weight.zero_point"] = zero_points.cpu().numpy().astype(np.uint8)
    for name, value in _float_state(model):
        tensors[name] = _smallest_float(value)
    scales: list[Tensor] = []
    zeros: list[Tensor] = []
    for slot, count, _ in activation_slots(header, model):
        quantizer_ = model.get_submodule(slot)
        scale = quantizer_.get_buffer("scale").float().cpu().reshape(-1)
        is_affine = isinstance(quantizer_, ActivationQuantizer)
        zero = quantizer_.get_buffer("zero_point").cpu().reshape(-1) if is_affine else torch.zeros(1)
        scales.append(scale.expand(count))
        zeros.append(zero.to(torch.uint8).expand(count))
    if scales:
        tensors["activation.scale"] = _smallest_float(torch.cat(scales))
        tensors["activation.zero_point"] = torch.cat(zeros).numpy()
    return tensors


def _float_state(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Everything that stays in floating point, under the names of the original model."""
    own = (".weight_quantizer.", ".input_quantizer.", *(f".{operand}_quantizer." for operand in _OPERANDS))
    wrapped = {f"{name}.layer.weight" for name, _ in _layers(model)}
    for name, value in model.state_dict().items():
        if name not in wrapped and not any(part in name for part in own):
            yield name.replace(".layer.bias", ".bias"), value


def fits_half(value: Tensor) -> bool:
    """True when every element survives fp16 exactly."""
    return bool((value.half().float() == value.float()).all())


def _smallest_float(value: Tensor) -> npt.NDArray[Any]:
    value = value.detach().float().cpu()
    return value.half().numpy() if fits_half(value) else value.numpy()


def _build(description: ModelDescription) -> SAM2Base:
    if description.arch is not None:
        model = build_embedded(description.arch)
        set_image_size(model, description.image_size)
        return model
    return build_official(MODELS[description.base_id], description.image_size)


def _check_size(file: BundleFile, header: BundleHeader) -> None:
    """Whether a file can hold what its header describes, before anything is built for it."""
    # a code takes one bit at least
    least_bytes = sum(math.prod(layer.shape) // 8 for layer in header.layers.values())
    spec = MODELS.get(header.model.base_id)
    if header.model.arch is None and spec is not None:
        least_bytes = max(least_bytes, (spec.size_bytes or 0) // 20)
    if sum(entry.end - entry.begin for entry in file.entries.values()) < least_bytes:
        raise _wrong_model(file)


def _wrong_model(file: BundleFile) -> BundleError:
    return BundleError(f"{file.path.name} is damaged: it does not hold the model that it describes.")


def _check_tensor_table(file: BundleFile, header: BundleHeader, model: nn.Module) -> None:
    """Names, shapes and dtypes against what a model of the header's architecture, not quantized, asks for."""
    wrong = _wrong_model(file)
    modules = dict(model.named_modules())
    expected: dict[str, tuple[tuple[int, ...], tuple[str, ...]]] = {}
    for name, value in model.state_dict().items():
        expected[name] = (tuple(value.shape), ("F16", "F32"))
    rows, codes = 0, dict[int, int]()
    for name, layer in header.layers.items():
        module = modules.get(name)
        if not isinstance(module, WEIGHT_LAYERS) or tuple(module.weight.shape) != layer.shape:
            raise wrong
        if layer.per_channel_input and not (
            isinstance(module, nn.Conv2d) and module.groups == layer.shape[0]
        ):
            raise wrong
        del expected[f"{name}.weight"]
        layer_rows = layer.shape[output_axis(module)]
        rows += layer_rows
        codes[layer.weight_bits] = codes.get(layer.weight_bits, 0) + math.prod(layer.shape)
        if header.version == 1:
            packed = row_bytes(math.prod(layer.shape) // layer_rows, layer.weight_bits)
            expected[f"{name}.weight.qdata"] = ((layer_rows, packed), ("U8",))
            expected[f"{name}.weight.scale"] = ((layer_rows,), ("F16", "F32"))
            expected[f"{name}.weight.zero_point"] = ((layer_rows,), ("U8",))
    for name in header.attentions:
        if name not in modules or quantized_class(modules[name]) is None:
            raise wrong
    count = sum(n for _, n, _ in activation_slots(header, model))
    if count:
        expected["activation.scale"] = ((count,), ("F16", "F32"))
        expected["activation.zero_point"] = ((count,), ("U8",))
    if header.version > 1:
        expected["weight.scale"] = ((rows,), ("F16", "F32"))
        expected["weight.zero_point"] = ((rows,), ("U8",))
        for bits, number in codes.items():
            stream = file.entries.get(codes_name(bits))
            if stream is None or len(stream.shape) != 1 or stream.shape[0] > most_bytes(number):
                raise wrong
            expected[codes_name(bits)] = (stream.shape, ("U8",))
    if set(expected) != set(file.entries):
        raise wrong
    for name, (shape, dtypes) in expected.items():
        if file.entries[name].shape != shape or file.entries[name].dtype not in dtypes:
            raise wrong


def _insert_from_header(model: nn.Module, header: BundleHeader) -> None:
    def put(name: str, new: nn.Module) -> None:
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, new)

    for name, layer in header.layers.items():
        original = model.get_submodule(name)
        axis = output_axis(original)
        weight_quantizer = WeightQuantizer(layer.weight_bits, layer.shape[axis], axis, layer.symmetric)
        input_quantizer = None
        if layer.activation_bits is not None:
            per_channel = layer.per_channel_input
            input_quantizer = ActivationQuantizer(
                layer.activation_bits,
                axis=1 if per_channel else None,
                channels=layer.shape[0] if per_channel else 1,
            )
        put(name, QuantizedLayer(original, weight_quantizer, input_quantizer))
    for name, attention in header.attentions.items():
        original = model.get_submodule(name)
        replacement = quantized_class(original)
        assert replacement is not None
        query, key = (ActivationQuantizer(attention.activation_bits) for _ in range(2))
        value_axis = -1 if attention.value_per_channel else None
        width = head_width(original) if attention.value_per_channel else 1
        value = ActivationQuantizer(attention.activation_bits, axis=value_axis, channels=width)
        probs: ActivationQuantizer | LogSoftmaxQuantizer
        if attention.softmax_kind == "log2":
            probs = LogSoftmaxQuantizer(attention.softmax_bits, (attention.tau,), attention.row_scale)
        else:
            probs = ActivationQuantizer(attention.softmax_bits)
        put(name, replacement.adopt(original, query, key, value, probs))


def _fill(model: nn.Module, file: BundleFile, header: BundleHeader) -> None:
    """Read, check and place every value."""
    try:
        weights = _plain_weights(model, file) if header.version == 1 else _coded_weights(model, file)
    except QuantizationError as error:
        raise BundleError(f"{file.path.name} is damaged: {error}") from error
    for name, layer in _layers(model):
        quantizer = layer.weight_quantizer
        codes_n, scale, zero = weights[name]
        if int(zero.max()) > quant_max(quantizer.bits) or int(codes_n.max()) > quant_max(quantizer.bits):
            raise BundleError(f"{file.path.name} is damaged: a zero point or weight of {name} is impossible.")
        shape = layer.weight.movedim(quantizer.axis, 0).shape
        codes = codes_n.view(shape).movedim(0, quantizer.axis).contiguous()
        quantizer.scale, quantizer.zero_point, quantizer.codes = scale, zero, codes
        quantizer.state = QuantizerState.ON
        with torch.no_grad():
            layer.weight.copy_(dequantize(codes, scale, zero, quantizer.axis))
    with torch.no_grad():
        for name, target in _float_state(model):
            value = torch.from_numpy(file.read(name)).float()
            if not torch.isfinite(value).all():
                raise BundleError(f"{file.path.name} is damaged: {name} holds values that are not numbers.")
            target.copy_(value)
    _fill_activations(model, file, header)
    set_state(model, weights=QuantizerState.ON, activations=QuantizerState.ON)


_Weights = dict[str, tuple[Tensor, Tensor, Tensor]]
"""Codes in rows, scales and zero points by layer."""


def _coded_weights(model: nn.Module, file: BundleFile) -> _Weights:
    layers = sorted(_layers(model), key=lambda item: item[0])
    scales, zeros = _positive(file, "weight.scale"), torch.from_numpy(file.read("weight.zero_point")).int()
    streams: dict[int, Tensor] = {}
    for bits in sorted({layer.weight_quantizer.bits for _, layer in layers}):
        count = sum(layer.weight.numel() for _, layer in layers if layer.weight_quantizer.bits == bits)
        streams[bits] = torch.from_numpy(decode_codes(file.read(codes_name(bits)), count).copy())
    found: _Weights = {}
    row, position = 0, dict.fromkeys(streams, 0)
    for name, layer in layers:
        bits, rows = layer.weight_quantizer.bits, layer.weight_quantizer.scale.numel()
        begin, end = position[bits], position[bits] + layer.weight.numel()
        found[name] = (
            streams[bits][begin:end],
            scales[row : row + rows].clone(),
            zeros[row : row + rows].clone(),
        )
        position[bits], row = end, row + rows
    return found


def _plain_weights(model: nn.Module, file: BundleFile) -> _Weights:
    """Version 1 of the format."""
    found: _Weights = {}
    for name, layer in _layers(model):
        quantizer = layer.weight_quantizer
        columns = layer.weight.numel() // quantizer.scale.numel()
        codes_rc = unpack_rows(file.read(f"{name}.weight.qdata"), columns, quantizer.bits)
        zero = torch.from_numpy(file.read(f"{name}.weight.zero_point")).int()
        found[name] = torch.from_numpy(codes_rc).flatten(), _positive(file, f"{name}.weight.scale"), zero
    return found


def _fill_activations(model: nn.Module, file: BundleFile, header: BundleHeader) -> None:
    slots = activation_slots(header, model)
    if not slots:
        return
    scales = _positive(file, "activation.scale")
    zeros = torch.from_numpy(file.read("activation.zero_point")).int()
    position = 0
    for slot, count, bits in slots:
        quantizer = model.get_submodule(slot)
        scale, zero = scales[position : position + count], zeros[position : position + count]
        position += count
        if int(zero.max()) > quant_max(bits):
            raise BundleError(f"{file.path.name} is damaged: a zero point of {slot} is impossible.")
        shape = quantizer.get_buffer("scale").shape
        quantizer.scale = scale.reshape(shape).clone()
        if isinstance(quantizer, ActivationQuantizer):
            quantizer.zero_point = zero.reshape(shape).clone()


def _positive(file: BundleFile, name: str) -> Tensor:
    scale = torch.from_numpy(file.read(name)).float()
    if not (torch.isfinite(scale).all() and (scale > 0).all()):
        raise BundleError(f"{file.path.name} is damaged: {name} is not a positive number.")
    return scale
