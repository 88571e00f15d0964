"""Bundles: what is written comes back, and nothing else is accepted."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from quant_models import SMALL, small_model
from safetensors import safe_open
from torch import nn

from qcore.models import ModelError, load_model
from qcore.models.doubt_head import add_doubt_head, doubt_head_of
from qcore.quant.bundle import codes_name, load_bundle, read_header, save_bundle
from qcore.quant.bundle_format import BundleError, open_bundle_file, write_bundle_file
from qcore.quant.bundle_header import ModelDescription, MutualKvHeader, parse_header
from qcore.quant.config import ActivationSpec, Override, QuantConfig, SoftmaxSpec, WeightSpec
from qcore.quant.fake_quantize import ActivationQuantizer, QuantizerState, quantizers, set_state
from qcore.quant.insertion import insert
from qcore.quant.layers import QuantizedLayer
from qcore.quant.packing import encode_codes
from qcore.quant.size import measure_size


def frozen_model(original: nn.Module | None = None, **changes: Any) -> nn.Module:
    """Every quantizer with plausible parameters, without running calibration."""
    config = QuantConfig(
        "minmax",
        WeightSpec(4),
        ActivationSpec(4, depthwise_per_channel=True, value_per_channel=True),
        SoftmaxSpec(4, kind="log2", taus=(2,)),
        overrides=(Override("memory_attention.layers.0.linear1", 6, 6), Override("*.blocks.3.pw", 3, 5)),
        **changes,
    )
    model = insert(original or small_model(), config)
    for index, (_, quantizer) in enumerate(quantizers(model)):
        if isinstance(quantizer, ActivationQuantizer):
            quantizer.scale = torch.full_like(quantizer.scale, 0.1 + index * 1e-3)
            quantizer.zero_point = torch.full_like(quantizer.zero_point, index % (1 << quantizer.bits))
    for module in model.modules():
        if isinstance(module, QuantizedLayer):
            module.weight_quantizer.observe(module.weight, "minmax")
            module.freeze()
    set_state(model, weights=QuantizerState.ON, activations=QuantizerState.ON)
    return model


DESCRIPTION = ModelDescription("embedded-fp16", "0" * 64, 64, SMALL)
INFORMATION = {"method": "minmax", "bits": "w4a4"}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, nn.Module]:
    model = frozen_model()
    path = tmp_path_factory.mktemp("bundle") / "small.safetensors"
    save_bundle(path, model, DESCRIPTION, INFORMATION, MutualKvHeader(0.9, True))
    return path, model


@torch.no_grad()
def test_a_loaded_bundle_computes_exactly_what_was_saved(bundle: tuple[Path, nn.Module]) -> None:
    path, model = bundle
    loaded = load_model(path)
    x = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(3))
    for ours, theirs in zip(loaded.forward_image(x)["backbone_fpn"], model.forward_image(x)["backbone_fpn"]):
        assert torch.equal(ours, theirs)
    for name, module in model.named_modules():
        if isinstance(module, QuantizedLayer):
            other = loaded.get_submodule(name).weight_quantizer
            assert torch.equal(other.codes, module.weight_quantizer.codes)
            assert torch.equal(other.scale, module.weight_quantizer.scale)
    header = read_header(path)
    assert (header.method, header.bits) == ("minmax", "w4a4")
    assert header.mutual_kv == MutualKvHeader(0.9, True)


def test_the_doubt_head_is_kept_as_it_is(tmp_path: Path) -> None:
    original = small_model()
    add_doubt_head(original)
    head = doubt_head_of(original)
    assert head is not None
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.copy_(torch.linspace(-2, 2, parameter.numel()).half().view_as(parameter))
    path = tmp_path / "doubting.safetensors"
    description = dataclasses.replace(DESCRIPTION, arch=dataclasses.replace(SMALL, doubt_head=True))
    save_bundle(path, frozen_model(original), description, INFORMATION)
    loaded = doubt_head_of(load_model(path))
    assert loaded is not None and all(type(layer) is nn.Linear for layer in loaded.children())
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), head.parameters(), strict=True))
    with pytest.raises(BundleError):  # without saying so
        save_bundle(path, frozen_model(original), DESCRIPTION, INFORMATION)
        load_model(path)


def test_a_bundle_is_byte_reproducible_and_plain_safetensors(
    bundle: tuple[Path, nn.Module], tmp_path: Path
) -> None:
    path, model = bundle
    again = tmp_path / "again.safetensors"
    save_bundle(again, model, DESCRIPTION, INFORMATION, MutualKvHeader(0.9, True))
    assert again.read_bytes() == path.read_bytes()
    with safe_open(path, "np") as file:
        assert list(file.metadata()) == ["qcore"]
        names = set(file.keys())
    assert {"weight.codes.w3", "weight.codes.w4", "weight.codes.w6", "weight.codes.w8"} < names


def test_weights_take_no_more_than_their_bits(bundle: tuple[Path, nn.Module]) -> None:
    path, model = bundle
    file = open_bundle_file(path)
    plain: dict[int, float] = {}
    for module in model.modules():
        if isinstance(module, QuantizedLayer):
            bits = module.weight_quantizer.bits
            plain[bits] = plain.get(bits, 0) + bits * module.weight.numel() / 8
    for bits, size in plain.items():
        entry = file.entries[codes_name(bits)]
        assert entry.end - entry.begin < 1.01 * size + 100


def _as_version_1(tensors: dict[str, Any], header: dict[str, Any], model: nn.Module) -> None:
    """What the first version of the format wrote: three tensors a layer, weights packed bit by bit."""
    for name in [n for n in tensors if n.startswith("weight.")]:
        tensors.pop(name)
    for name, module in model.named_modules():
        if isinstance(module, QuantizedLayer):
            quantizer = module.weight_quantizer
            codes = quantizer.codes.movedim(quantizer.axis, 0).flatten(1).numpy()
            planes = np.unpackbits(codes[:, :, None], axis=2, count=quantizer.bits, bitorder="little")
            packed = np.packbits(planes.reshape(len(codes), -1), axis=1, bitorder="little")
            tensors[f"{name}.weight.qdata"] = packed
            tensors[f"{name}.weight.scale"] = quantizer.scale.numpy()
            tensors[f"{name}.weight.zero_point"] = quantizer.zero_point.numpy().astype(np.uint8)
    fields = ("weight_bits", "activation_bits", "per_channel_input", "symmetric", "shape")
    header["layers"] = {name: dict(zip(fields, values)) for name, values in header["layers"].items()}
    header["version"] = 1


def test_a_bundle_of_the_first_version_is_read(bundle: tuple[Path, nn.Module], tmp_path: Path) -> None:
    path, model = bundle
    old = _rewrite(path, tmp_path / "old.safetensors", lambda t, h: _as_version_1(t, h, model))
    loaded = load_bundle(old)
    assert read_header(old).version == 1
    assert measure_size(old).fp32_bytes == measure_size(path).fp32_bytes
    for name, module in model.named_modules():
        if isinstance(module, QuantizedLayer):
            assert torch.equal(loaded.get_submodule(name).layer.weight, module.layer.weight)

    def dirty(tensors: dict[str, Any], header: dict[str, Any]) -> None:
        _as_version_1(tensors, header, model)
        header["version"] = 2

    with pytest.raises(BundleError):
        load_bundle(_rewrite(path, tmp_path / "mixed.safetensors", dirty))


def test_a_model_that_is_not_frozen_is_not_saved(tmp_path: Path) -> None:
    config = QuantConfig("minmax", WeightSpec(4), ActivationSpec(4), SoftmaxSpec(4))
    with pytest.raises(ValueError, match="final codes"):
        save_bundle(tmp_path / "b.safetensors", insert(small_model(), config), DESCRIPTION, INFORMATION)
    assert not list(tmp_path.iterdir())


@given(data=st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_truncated_and_flipped_files_are_refused(
    bundle: tuple[Path, nn.Module], tmp_path: Path, data: st.DataObject
) -> None:
    raw = bytearray(bundle[0].read_bytes())
    if data.draw(st.booleans()):
        del raw[data.draw(st.integers(0, len(raw) - 1)) :]
    else:
        start = data.draw(st.sampled_from([0, 8, len(raw) // 2]))
        position = data.draw(st.integers(start, len(raw) - 1))
        flip = data.draw(st.integers(1, 255))
        raw[position] ^= flip
    path = tmp_path / "broken.safetensors"
    path.write_bytes(raw)
    try:
        load_bundle(path)
    except ModelError as error:
        assert str(error).endswith((".", "]")) and "\n" not in str(error)
        return
    # the only bytes that may change unseen are provenance for people, in the header
    position_in_header = raw != bundle[0].read_bytes()
    assert position_in_header
    assert open_bundle_file(path).payload_sha256() == open_bundle_file(bundle[0]).payload_sha256()


_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 1 << 40)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@given(value=_JSON, path_choice=st.integers(0, 10_000))
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_foreign_value_in_the_header_is_refused_or_harmless(
    bundle: tuple[Path, nn.Module], tmp_path: Path, value: Any, path_choice: int
) -> None:
    file = open_bundle_file(bundle[0])
    header = json.loads(json.dumps(file.header))
    spots: list[tuple[Any, Any]] = []

    def walk(node: Any) -> None:
        for key in list(node) if isinstance(node, dict) else range(len(node)):
            spots.append((node, key))
            if isinstance(node[key], (dict, list)):
                walk(node[key])

    walk(header)
    node, key = spots[path_choice % len(spots)]
    node[key] = value
    try:
        parse_header(header)
    except ModelError:
        return
    header.pop("payload_sha256", None)
    path = tmp_path / "foreign.safetensors"
    tensors = {name: file.read(name) for name in file.entries}
    write_bundle_file(path, tensors, header)
    try:
        model = load_bundle(path)
    except ModelError:
        return
    assert model.training is False


Change = Callable[[dict[str, Any], dict[str, Any]], None]


def _rewrite(bundle_path: Path, target: Path, change: Change) -> Path:
    file = open_bundle_file(bundle_path)
    tensors = {name: file.read(name) for name in file.entries}
    header = dict(file.header)
    header.pop("payload_sha256")
    change(tensors, header)
    write_bundle_file(target, tensors, header)
    return target


LAYER = "memory_attention.layers.0.linear1"


def _set(name: str, value: Any) -> Change:
    def change(tensors: dict[str, Any], header: dict[str, Any]) -> None:
        tensors[name].flat[0] = value

    return change


def _set_all(name: str, value: Any) -> Change:
    def change(tensors: dict[str, Any], header: dict[str, Any]) -> None:
        tensors[name][:] = value

    return change


def _all_sixes(tensors: dict[str, Any]) -> None:
    """As many codes as there must be, but none fits into six bits."""
    count = int(np.prod(small_model().get_submodule(LAYER).weight.shape))
    tensors["weight.codes.w6"] = encode_codes(np.full(count, 66, np.uint8))


@pytest.mark.parametrize(
    "change",
    [
        _set("weight.scale", np.nan),
        _set("weight.scale", -1.0),
        _set_all("weight.zero_point", 255),
        _set("activation.scale", np.inf),
        _set("no_mem_embed", np.nan),
        lambda tensors, header: tensors.pop("no_mem_embed"),
        lambda tensors, header: tensors.update(extra=np.zeros(3, np.float32)),
        lambda tensors, header: tensors.update(no_mem_embed=np.zeros((1, 1, 2), np.float32)),
        lambda tensors, header: header.update(version=3),
        lambda tensors, header: header.update(format="other"),
        lambda tensors, header: header["model"].update(arch={"d_model": 1 << 20}),
        lambda tensors, header: header["model"].update(arch=None, base_id="sam2.1_hiera_large"),
        lambda tensors, header: tensors.update({"weight.codes.w6": tensors["weight.codes.w6"][:-9]}),
        lambda tensors, header: tensors.update({"weight.codes.w6": np.zeros(1 << 20, np.uint8)}),
        lambda tensors, header: tensors.update({"weight.codes.w4": ~tensors["weight.codes.w4"]}),
        lambda tensors, header: tensors.update({"weight.codes.w5": np.zeros(9, np.uint8)}),
        lambda tensors, header: _all_sixes(tensors),
        lambda tensors, header: header["layers"][LAYER].__setitem__(0, 9),
        lambda tensors, header: header["layers"][LAYER].append(1),
        lambda tensors, header: header["layers"][LAYER].__setitem__(4, [1 << 20, 1 << 20]),
        lambda tensors, header: header["layers"].update({"__class__": header["layers"].pop(LAYER)}),
    ],
)
def test_hostile_content_is_refused_with_one_sentence(
    bundle: tuple[Path, nn.Module], tmp_path: Path, change: Change
) -> None:
    path = _rewrite(bundle[0], tmp_path / "hostile.safetensors", change)
    with pytest.raises(BundleError) as refusal:
        load_bundle(path)
    assert "\n" not in str(refusal.value)


def test_duplicate_names_and_gaps_are_refused(bundle: tuple[Path, nn.Module], tmp_path: Path) -> None:
    raw = bundle[0].read_bytes()
    length = int.from_bytes(raw[:8], "little")
    text = raw[8 : 8 + length].decode().rstrip()
    body = raw[8 + length :]
    first = next(name for name in json.loads(text) if name != "__metadata__")
    entry = json.dumps(json.loads(text)[first], separators=(",", ":"))
    doubled = text[:-1] + f',"{first}":{entry}}}'
    for new_text, new_body in ((doubled, body), (text, body + b"\0"), ("[]", body), ("{}", b"")):
        path = tmp_path / "odd.safetensors"
        path.write_bytes(len(new_text).to_bytes(8, "little") + new_text.encode() + new_body)
        with pytest.raises(BundleError):
            load_bundle(path)


def test_a_header_larger_than_the_file_or_the_cap_is_refused_unread(tmp_path: Path) -> None:
    for length in (1 << 20, 1 << 62):
        path = tmp_path / "huge.safetensors"
        path.write_bytes(length.to_bytes(8, "little") + b"{}")
        with pytest.raises(BundleError, match="cut off"):
            load_bundle(path)
