"""The presence head learns from tokens alone, and nothing else of a model changes."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from sam2.modeling.sam2_utils import MLP

from qcore.models.embedded import EmbeddedArch, build_embedded
from qcore.models.files import sha256_of
from qcore.models.loading import load_model, resolve_model
from qcore.quant.bundle import read_header
from qcore.training import presence_head
from qcore.training.__main__ import main
from qcore.training.errors import TrainingError
from qcore.training.presence_head import PresenceSamples, collect, fit_head, training_clips
from qcore.training.weights import save_weights


def samples(count: int = 3000, distance: float = 3.0, seed: int = 0) -> PresenceSamples:
    """Tokens of two kinds of frames, as far apart as ``distance`` standard deviations along one direction."""
    generator = torch.Generator().manual_seed(seed)
    in_view = torch.rand(count, generator=generator) < 0.8
    tokens = torch.randn(count, 16, generator=generator)
    tokens[:, 3] += distance * in_view
    return PresenceSamples(tokens, in_view)


def head() -> MLP:
    torch.manual_seed(0)
    return MLP(16, 16, 1, 3)


def test_the_head_tells_both_kinds_of_frames_apart_though_one_is_rare() -> None:
    fitted = head()
    fit_head(fitted, samples(), steps=800)
    fresh = samples(seed=1)
    with torch.no_grad():
        said = fitted(fresh.tokens_nc).flatten() > 0
    # the best that can be had of normal distributions three deviations apart
    best = float(torch.distributions.Normal(0.0, 1.0).cdf(torch.tensor(1.5)))
    for kind in (True, False):
        right = (said == fresh.in_view_n)[fresh.in_view_n == kind]
        assert float(right.float().mean()) == pytest.approx(best, abs=0.05)
    assert not any(parameter.requires_grad for parameter in fitted.parameters())


def test_the_same_seed_gives_the_same_head() -> None:
    first, second, other = head(), head(), head()
    for one, seed in ((first, 5), (second, 5), (other, 6)):
        fit_head(one, samples(600), 20, seed)
    states = [one.state_dict() for one in (first, second, other)]
    assert all(torch.equal(states[0][k], states[1][k]) for k in states[0])
    assert any(not torch.equal(states[0][k], states[2][k]) for k in states[0])


def test_clips_are_those_with_labels_then_rounds_of_exits_of_which_every_second_is_mirrored(
    davis_root: Path,
) -> None:
    clips = list(training_clips(davis_root, 12, 2))
    exits = ["disc+square", "square+disc"]
    assert [clip.name for clip in clips] == ["disc", "square", *exits, *(f"{e}, mirrored" for e in exits)]
    assert all((clip.in_view_t == 1).all() for clip in clips[:2])
    assert all((clip.in_view_t == 0).any() for clip in clips[2:])
    for plain, mirrored in zip(clips[2:4], clips[4:], strict=True):
        assert (plain.frames_thwc[:, :, ::-1] == mirrored.frames_thwc).all()
        assert (plain.truth_thw[:, :, ::-1] == mirrored.truth_thw).all()


def test_tokens_are_those_of_the_head_and_nothing_stays_behind(
    tiny_arch: EmbeddedArch, davis_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(presence_head, "KNOWN_IOU", -1.0)
    torch.manual_seed(0)
    model = build_embedded(tiny_arch).eval().requires_grad_(False)
    decoder = model.sam_mask_decoder
    before = copy.deepcopy(model.state_dict())
    found = collect(model, training_clips(davis_root, 12, 1))
    assert found.tokens_nc.shape == (len(found.in_view_n), decoder.transformer_dim)
    assert 2 * 19 < int(found.in_view_n.sum()) < len(found.in_view_n) <= 2 * 19 + 2 * 11
    assert not decoder.pred_obj_score_head._forward_pre_hooks
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    with pytest.raises(TrainingError, match="leaves the picture"):
        collect(model, [])


def test_only_the_head_of_a_file_changes(
    tiny_arch: EmbeddedArch, davis_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(presence_head, "KNOWN_IOU", -1.0)
    torch.manual_seed(0)
    start, out = tmp_path / "start.safetensors", tmp_path / "out.safetensors"
    save_weights(build_embedded(tiny_arch).state_dict(), tiny_arch, start, {})
    command = ["fit-presence", str(start), "--davis-root", str(davis_root), "--rounds", "2", "--frames", "12"]
    assert main([*command, "--out", str(out)]) == 0
    first, second = load_file(start), load_file(out)
    changed = {name for name in first if not torch.equal(first[name], second[name])}
    assert changed
    assert all(name.startswith("sam_mask_decoder.pred_obj_score_head.") for name in changed)


@pytest.mark.parametrize(("head", "layer"), [("presence", "layers.2."), ("doubt", "doubt.line.")])
def test_the_threshold_of_weights_and_of_their_bundle_moves_and_nothing_else(
    head: str, layer: str, tmp_path: Path
) -> None:
    weights, bundle = resolve_model("embedded-fp16"), resolve_model("embedded")
    moved, moved_bundle = tmp_path / "w.safetensors", tmp_path / "b.safetensors"
    command = [f"shift-{head}", str(weights), "--by", "0.5", "--out", str(moved)]
    assert main(command) == 0
    assert main([*command, "--original", str(weights)]) == 1
    command = [f"shift-{head}", str(bundle), "--by", "0.5", "--out", str(moved_bundle)]
    assert main(command) == 1
    assert main([*command, "--original", str(moved)]) == 0
    for before, after in ((weights, moved), (bundle, moved_bundle)):
        first, second = load_model(before).state_dict(), load_model(after).state_dict()
        assert first.keys() == second.keys()
        changed = [name for name in first if not torch.equal(first[name], second[name])]
        assert len(changed) == 1
        assert changed[0].startswith(f"sam_mask_decoder.pred_obj_score_head.{layer}")
        assert changed[0].endswith("bias")
        assert float((second[changed[0]] - first[changed[0]]).detach()) == pytest.approx(0.5, abs=2e-3)
    assert read_header(moved_bundle).model.base_sha256 == sha256_of(moved)


def test_a_model_without_a_doubt_head_has_no_threshold_of_it(
    tiny_arch: EmbeddedArch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = tmp_path / "start.safetensors"
    save_weights(build_embedded(tiny_arch).state_dict(), tiny_arch, start, {})
    assert main(["shift-doubt", str(start), "--by", "1", "--out", str(tmp_path / "out.safetensors")]) == 1
    assert "no doubt head" in capsys.readouterr().err
    assert not (tmp_path / "out.safetensors").exists()
