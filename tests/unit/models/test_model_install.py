"""Importing, verifying, removing and listing models."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import pickle
import random
from pathlib import Path
from types import MappingProxyType

import pytest
import torch
from safetensors.torch import save_file

from qcore.models import (
    MODELS,
    EmbeddedArch,
    ModelError,
    build_embedded,
    installed_path,
    load_model,
    model_spec,
    models_dir,
)
from qcore.models.embedded import ARCH_METADATA_KEY
from qcore.models.install import download_model, import_model, remove_model, verify_model
from qcore.models.loading import read_checkpoint
from qcore.models.official import build_official
from qcore.models.registry import model_statuses

TINY = "sam2.1_hiera_tiny"


@pytest.fixture(scope="module")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights in the published layout."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("official") / "fine-tuned.pt"
    torch.save({"model": build_official(MODELS[TINY]).half().state_dict()}, path)
    return path


@pytest.fixture
def compact_file(tmp_path: Path) -> Path:
    arch = EmbeddedArch(input_size=64, d_model=64, mem_dim=32, memory_layers=1, ffn_dim=64, fuser_layers=1)
    path = tmp_path / "mine.safetensors"
    metadata = {ARCH_METADATA_KEY: arch.to_json(), "licence": "MIT"}
    save_file(build_embedded(arch).state_dict(), path, metadata=metadata)
    return path


def publish(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    """Pretend that these bytes are the published tiny checkpoint."""
    spec = dataclasses.replace(
        MODELS[TINY], size_bytes=len(content), sha256=hashlib.sha256(content).hexdigest()
    )
    table = MappingProxyType({**MODELS, TINY: spec})
    monkeypatch.setattr("qcore.models.registry.MODELS", table)
    monkeypatch.setattr("qcore.models.install.MODELS", table)


def test_the_registry_holds_the_six_models() -> None:
    assert list(MODELS) == [
        "embedded",
        "embedded-fp16",
        "sam2.1_hiera_tiny",
        "sam2.1_hiera_small",
        "sam2.1_hiera_base_plus",
        "sam2.1_hiera_large",
    ]
    for spec in list(MODELS.values())[2:]:
        assert spec.url is not None
        assert spec.url.startswith("https://")
        assert spec.url.endswith(f"/{spec.file_name}")
        assert spec.sha256 is not None
        assert len(spec.sha256) == 64
        assert spec.size_bytes is not None
        assert spec.licence == "Apache-2.0"


def test_the_shipped_models_are_intact_and_stay() -> None:
    for model_id in ("embedded", "embedded-fp16"):
        verify_model(model_id)
        with pytest.raises(ModelError, match="ships with the program"):
            remove_model(model_id)


def test_a_model_that_is_not_installed_says_how_to_get_it() -> None:
    with pytest.raises(ModelError, match=r"run 'qminisam2 models download sam2\.1_hiera_tiny' \(156 MB\)"):
        load_model(TINY)
    with pytest.raises(ModelError, match="is not installed"):
        verify_model(TINY)
    with pytest.raises(ModelError, match="is not installed"):
        remove_model(TINY)


def test_the_embedded_model_needs_no_download() -> None:
    assert download_model("embedded") == installed_path(MODELS["embedded"])


def test_a_published_checkpoint_is_recognised_under_any_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = os.urandom(5000)
    publish(monkeypatch, content)
    source = tmp_path / "downloaded (1).pt"
    source.write_bytes(content)
    assert import_model(source).id == TINY
    assert verify_model(TINY) == models_dir() / "sam2.1_hiera_tiny.pt"
    assert download_model(TINY).read_bytes() == content
    assert [path.name for path in models_dir().iterdir()] == ["sam2.1_hiera_tiny.pt"]


def test_a_damaged_published_checkpoint_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = bytearray(os.urandom(5000))
    publish(monkeypatch, bytes(content))
    source = tmp_path / "sam2.1_hiera_tiny.pt"
    source.write_bytes(content)
    import_model(source)
    content[2500] ^= 1
    (models_dir() / source.name).write_bytes(content)
    with pytest.raises(ModelError, match="SHA-256 differs"):
        verify_model(TINY)
    (models_dir() / source.name).write_bytes(content[:-1])
    with pytest.raises(ModelError, match="wrong length"):
        verify_model(TINY)
    assert remove_model(TINY) == len(content) - 1
    assert list(models_dir().iterdir()) == []


def test_a_wrong_file_under_the_published_name_is_refused(tmp_path: Path) -> None:
    source = tmp_path / "sam2.1_hiera_tiny.pt"
    torch.save({"model": {"a": torch.zeros(1)}}, source)
    with pytest.raises(ModelError, match=r"is not the published sam2\.1_hiera_tiny"):
        import_model(source)
    assert not models_dir().exists()


def test_a_fine_tuned_checkpoint_becomes_a_model_of_its_own(tiny_checkpoint: Path) -> None:
    spec = import_model(tiny_checkpoint)
    assert spec.id == "fine-tuned"
    model = load_model("fine-tuned", image_size=128)
    assert model.image_size == 128
    stored = torch.load(tiny_checkpoint, weights_only=True)["model"]
    loaded = model.state_dict()
    assert all(torch.equal(stored[name].float(), loaded[name]) for name in stored)
    assert not load_model(tiny_checkpoint, image_size=128).training
    with pytest.raises(ModelError, match="already a model fine-tuned"):
        import_model(tiny_checkpoint)
    assert remove_model("fine-tuned") == tiny_checkpoint.stat().st_size
    assert list(models_dir().iterdir()) == []


def test_a_checkpoint_with_a_missing_or_an_extra_key_is_refused(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    state = torch.load(tiny_checkpoint, weights_only=True)["model"]
    target = tmp_path / "changed.pt"
    torch.save({"model": {**state, "extra": torch.zeros(1)}}, target)
    with pytest.raises(ModelError, match="does not fit the architecture"):
        import_model(target)
    del state["no_mem_embed"]
    torch.save({"model": state}, target)
    with pytest.raises(ModelError, match="does not fit the architecture"):
        import_model(target)


class _Marker:
    """Its unpickling makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("container", ["torch zip", "torch legacy", "plain pickle"])
def test_a_pickle_with_code_in_it_is_refused_and_not_run(tmp_path: Path, container: str) -> None:
    ran, source = tmp_path / "ran", tmp_path / "evil.pt"
    content = {"model": {"a": torch.zeros(1)}, "code": _Marker(ran)}
    if container == "plain pickle":
        source.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, source, _use_new_zipfile_serialization=container == "torch zip")
    with pytest.raises(ModelError, match="holds more than weights") as caught:
        import_model(source)
    assert "\n" not in str(caught.value)
    with pytest.raises(ModelError):
        load_model(source)
    assert not ran.exists()
    assert not models_dir().exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"hello", b"\x80\x02", os.urandom(3000)])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors", ".onnx"])
def test_rubbish_is_refused_in_one_sentence(tmp_path: Path, content: bytes, suffix: str) -> None:
    source = tmp_path / f"rubbish{suffix}"
    source.write_bytes(content)
    with pytest.raises(ModelError) as caught:
        import_model(source)
    assert "\n" not in str(caught.value)


def test_random_bytes_are_refused_in_one_sentence(tmp_path: Path) -> None:
    chance = random.Random(5)
    source = tmp_path / "rubbish.pt"
    for length in [1, 2, 3, 5, 8, 13, 40, 200] * 60:
        source.write_bytes(chance.choice((b"", b"\x80\x02")) + chance.randbytes(length))
        with pytest.raises(ModelError):
            read_checkpoint(source)


@pytest.mark.parametrize(
    "content", [[1, 2], {"model": 3}, {"model": {1: 2}}, {"model": {"a": torch.zeros(2)}}]
)
def test_a_checkpoint_of_something_else_is_refused(tmp_path: Path, content: object) -> None:
    source = tmp_path / "other.pt"
    torch.save(content, source)
    with pytest.raises(ModelError):
        import_model(source)


def test_a_compact_model_file_is_imported_listed_and_removed(compact_file: Path) -> None:
    assert import_model(compact_file).id == "mine"
    row = next(row for row in model_statuses() if row.id == "mine")
    assert row.installed
    assert (row.licence, row.precision) == ("MIT", "fp16")
    assert row.size_bytes == compact_file.stat().st_size
    assert load_model("mine").image_size == 64
    verify_model("mine")
    copy = models_dir() / "mine.safetensors"
    content = bytearray(copy.read_bytes())
    content[-1] ^= 1
    copy.write_bytes(content)
    with pytest.raises(ModelError, match="SHA-256 differs"):
        verify_model("mine")
    remove_model("mine")
    with pytest.raises(ModelError, match="There is no model 'mine'"):
        model_spec("mine")


def test_a_bundle_is_listed_with_its_bits_and_licence() -> None:
    models_dir().mkdir(parents=True)
    header = json.dumps({"format": "qcore.sam2", "bits": "w6a6", "licence": "CC0-1.0"})
    save_file({"a": torch.zeros(1)}, models_dir() / "mine.safetensors", metadata={"qcore": header})
    save_file({"a": torch.zeros(1)}, models_dir() / "odd.safetensors", metadata={"qcore": "[1"})
    rows = {row.id: row for row in model_statuses()}
    assert (rows["mine"].kind, rows["mine"].precision, rows["mine"].licence) == ("bundle", "w6a6", "CC0-1.0")
    assert rows["odd"].precision == "damaged"
    for model_id in ("mine", "odd"):
        with pytest.raises(ModelError):
            load_model(model_id)


def test_an_imported_model_cannot_take_a_registry_id_or_leave_the_folder(compact_file: Path) -> None:
    for bad in ("embedded", "../evil", "", "a/b", ".hidden", "x" * 200):
        with pytest.raises(ModelError, match="cannot be the id"):
            import_model(compact_file, bad or " ")
    assert import_model(compact_file, "other-id").id == "other-id"


def test_an_unwritable_models_folder_is_one_sentence(
    compact_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("not a folder")
    monkeypatch.setenv("QMINISAM2_MODELS_DIR", str(blocker / "models"))
    with pytest.raises(ModelError, match="cannot be written"):
        import_model(compact_file)


def test_the_list_shows_what_is_installed() -> None:
    rows = {row.id: row for row in model_statuses()}
    assert rows["embedded-fp16"].installed
    assert rows["embedded-fp16"].precision == "fp16"
    assert not rows[TINY].installed
    assert rows[TINY].size_bytes == 156008466
