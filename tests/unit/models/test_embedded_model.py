"""The compact model: its file, its architecture record, and how it refuses damaged ones."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from sam2.sam2_video_predictor import SAM2VideoPredictor

from qcore.models import EmbeddedArch, ModelError, build_embedded, load_model, set_image_size
from qcore.models.embedded import ARCH_METADATA_KEY, EfficientNetLiteTrunk, coordinate_channels
from qcore.models.files import sha256_of
from qcore.quant.bundle import read_header
from resources import resource_path

SMALL = EmbeddedArch(input_size=64, d_model=64, mem_dim=32, memory_layers=1, ffn_dim=64, fuser_layers=1)


@pytest.fixture(scope="module")
def small_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("model") / "small.safetensors"
    save_file(build_embedded(SMALL).state_dict(), path, metadata={ARCH_METADATA_KEY: SMALL.to_json()})
    return path


def rewrite(source: Path, target: Path, **changes: object) -> Path:
    """A copy of the small model with tensors replaced (or, when None, left out)."""
    tensors = load_file(source)
    for name, value in changes.items():
        if value is None:
            del tensors[name]
        else:
            assert isinstance(value, torch.Tensor)
            tensors[name] = value
    save_file(tensors, target, metadata={ARCH_METADATA_KEY: SMALL.to_json()})
    return target


@pytest.mark.parametrize("model_id", ["embedded", "embedded-fp16"])
def test_the_shipped_models_load_ready_to_run(model_id: str) -> None:
    model = load_model(model_id)
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert model.image_size == 384


@pytest.mark.parametrize("model_id", ["embedded", "embedded-fp16"])
def test_a_model_loads_without_torch_s_compiler(model_id: str) -> None:
    """Importing it takes longer than everything else about loading."""
    script = (
        "import sys; from qcore.models import load_model; from qcore.runtime import lower;"
        f"lower(load_model({model_id!r}));"
        "print(*(m for m in ('torch._dynamo', 'sympy') if m in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_shipped_weights_are_the_file_s_numbers() -> None:
    stored = load_file(resource_path("models/embedded-fp16.safetensors"))
    loaded = load_model("embedded-fp16").state_dict()
    assert stored.keys() == loaded.keys()
    assert all(torch.equal(stored[name].float(), loaded[name]) for name in stored)


def test_the_shipped_bundle_is_made_from_the_shipped_original_and_much_smaller() -> None:
    bundle, original = (resource_path(f"models/{name}.safetensors") for name in ("embedded", "embedded-fp16"))
    header = read_header(bundle)
    assert header.bits == "w6a6" and header.method == "q-minisam2"
    assert header.model.base_sha256 == sha256_of(original)
    fp32_bytes = 4 * sum(tensor.numel() for tensor in load_file(original).values())
    assert bundle.stat().st_size < 0.2 * fp32_bytes  # four fifths smaller, everything counted
    assert bundle.stat().st_size + original.stat().st_size < 40_000_000


def test_a_saved_model_loads_with_its_own_dimensions(small_file: Path) -> None:
    model = load_model(small_file)
    assert (model.image_size, model.hidden_dim, model.mem_dim) == (64, 64, 32)
    assert len(model.memory_attention.layers) == 1


@pytest.mark.parametrize("trunk", ["lite0", "lite1", "lite2"])
@pytest.mark.parametrize("coordinates", [False, True])
def test_trunks_give_strides_4_to_32(trunk: str, coordinates: bool) -> None:
    arch = EmbeddedArch(input_size=64, trunk=trunk, coordinate_channels=coordinates)
    module = EfficientNetLiteTrunk(arch).eval()
    with torch.inference_mode():
        features = module(torch.zeros(2, 3, 64, 64))
    assert [tuple(f.shape[2:]) for f in features] == [(16, 16), (8, 8), (4, 4), (2, 2)]
    assert [f.shape[1] for f in features][::-1] == module.channel_list


def test_trunk_sizes_are_those_of_efficientnet_lite() -> None:
    # block counts and stage widths as published for EfficientNet-Lite0, 1 and 2
    expected = {
        "lite0": (16, [24, 40, 112, 320]),
        "lite1": (21, [24, 40, 112, 320]),
        "lite2": (21, [24, 48, 120, 352]),
    }
    for trunk, (blocks, widths) in expected.items():
        module = EfficientNetLiteTrunk(EmbeddedArch(trunk=trunk, coordinate_channels=False))
        assert len(module.blocks) == blocks
        assert module.channel_list[::-1] == widths


def test_coordinate_channels_start_with_x_and_y() -> None:
    channels = coordinate_channels(2, 4)[0]
    assert channels.shape == (14, 2, 4)
    assert channels[0, 0].tolist() == pytest.approx([-1.5, -0.5, 0.5, 1.5])
    assert channels[1, :, 0].tolist() == pytest.approx([-1.0, 1.0])


def test_the_image_size_changes_in_all_five_places(small_file: Path) -> None:
    changed = load_model(small_file)
    set_image_size(changed, 96)
    built = load_model(small_file, image_size=96)
    fresh = build_embedded(
        EmbeddedArch.from_json(json.dumps({**json.loads(SMALL.to_json()), "input_size": 96}))
    )
    for model in (changed, built):
        assert model.image_size == fresh.image_size == 96
        assert model.sam_image_embedding_size == fresh.sam_image_embedding_size
        for name in ("input_image_size", "image_embedding_size", "mask_input_size"):
            assert getattr(model.sam_prompt_encoder, name) == getattr(fresh.sam_prompt_encoder, name)


def test_another_class_can_be_built_from_the_same_parts() -> None:
    predictor = build_embedded(SMALL, SAM2VideoPredictor, fill_hole_area=0)
    assert isinstance(predictor, SAM2VideoPredictor)
    assert predictor.state_dict().keys() == build_embedded(SMALL).state_dict().keys()


@given(
    st.builds(
        EmbeddedArch,
        input_size=st.integers(2, 64).map(lambda n: 32 * n),
        d_model=st.sampled_from([64, 128, 256]),
        mem_dim=st.sampled_from([16, 32, 64]),
        memory_layers=st.integers(1, 8),
        ffn_dim=st.integers(32, 4096),
        num_maskmem=st.integers(1, 16),
        max_object_pointers=st.integers(1, 64),
        fuser_layers=st.integers(1, 8),
        trunk=st.sampled_from(["lite0", "lite1", "lite2"]),
        coordinate_channels=st.booleans(),
        doubt_head=st.booleans(),
        feature_rms=st.tuples(*[st.floats(0.01, 100)] * 4),
    )
)
def test_an_architecture_survives_its_json(arch: EmbeddedArch) -> None:
    assert EmbeddedArch.from_json(arch.to_json()) == arch


@pytest.mark.parametrize(
    "change",
    [
        {"input_size": 100},
        {"input_size": 1 << 20},
        {"input_size": 384.0},
        {"d_model": 10**9},
        {"d_model": True},
        {"memory_layers": 0},
        {"mem_dim": 48},
        {"trunk": "lite9"},
        {"trunk": ["lite0"]},
        {"coordinate_channels": 1},
        {"doubt_head": None},
        {"feature_rms": [1, 2, 3]},
        {"feature_rms": [1, 2, 3, 0]},
        {"feature_rms": "1234"},
        {"surprise": 1},
    ],
)
def test_an_impossible_architecture_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ModelError):
        EmbeddedArch.from_json(json.dumps({**json.loads(SMALL.to_json()), **change}))


@pytest.mark.parametrize("text", ["", "[]", "null", "{", "[" * 100_000])
def test_a_damaged_description_is_refused(text: str) -> None:
    with pytest.raises(ModelError):
        EmbeddedArch.from_json(text)


def test_missing_extra_or_misshapen_tensors_are_refused(small_file: Path, tmp_path: Path) -> None:
    name = "memory_encoder.out_proj.bias"
    target = tmp_path / "changed.safetensors"
    for change in (
        {name: None},
        {"extra": torch.zeros(1)},
        {name: torch.zeros(7)},
        {name: torch.zeros(32, dtype=torch.int32)},
        {name: torch.full((32,), float("nan"))},
    ):
        rewrite(small_file, target, **change)
        with pytest.raises(ModelError, match=r"changed\.safetensors"):
            load_model(target)


def test_a_cut_off_file_is_refused(small_file: Path, tmp_path: Path) -> None:
    content = small_file.read_bytes()
    target = tmp_path / "cut.safetensors"
    for length in (0, 5, 100, len(content) // 2, len(content) - 1):
        target.write_bytes(content[:length])
        with pytest.raises(ModelError):
            load_model(target)


def test_a_foreign_safetensors_file_is_refused(tmp_path: Path) -> None:
    target = tmp_path / "foreign.safetensors"
    save_file({"a": torch.zeros(2)}, target)
    with pytest.raises(ModelError, match="neither a bundle nor a model"):
        load_model(target)


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(ModelError, match=r"embedded-fp16.*sam2\.1_hiera_large"):
        load_model("embeded")
