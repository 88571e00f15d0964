"""The doubt head learns from what it sees of tracked frames, and nothing else of a model changes."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from qcore.models import build_official, model_spec
from qcore.models.doubt_head import SIGNS, DoubtHead, doubt_head_of
from qcore.models.embedded import EmbeddedArch, build_embedded
from qcore.models.files import sha256_of
from qcore.models.loading import load_model, resolve_model
from qcore.quant.bundle import read_header
from qcore.training import doubt_fit, presence_head, weights
from qcore.training.__main__ import main
from qcore.training.doubt_fit import ABSENT, PASTED, DoubtSamples, collect_doubts, fit_doubt
from qcore.training.errors import TrainingError
from qcore.training.presence_head import whole_clips
from qcore.training.weights import load_with_doubt, save_weights, save_with_doubt, start_model

CHANNELS = 4
WIDTH = CHANNELS + len(SIGNS)
NOTHING = DoubtSamples(torch.empty(0, WIDTH), torch.empty(0, dtype=torch.bool))
LINE, NET = 2, CHANNELS + 5
"""An input of the line, and one of the net alone."""


def samples(in_view: list[bool], seed: int, off: float = 0.0, telling: int = LINE) -> DoubtSamples:
    """Inputs of which one is lower without the object, by two standard deviations."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(len(in_view), WIDTH, generator=generator)
    seen = torch.tensor(in_view)
    inputs[:, telling] += 2.0 * seen + off
    scale = torch.ones(WIDTH)
    scale[:3] = torch.tensor([1, 5, 0.1])
    return DoubtSamples(inputs * scale + 3, seen)


def doubts(head: DoubtHead, of: DoubtSamples) -> torch.Tensor:
    with torch.no_grad():
        return head(of.inputs_nk).flatten() > 0


def fitted(whole: DoubtSamples, leaving: DoubtSamples, shift: float = 0.0) -> DoubtHead:
    head = DoubtHead(CHANNELS)
    fit_doubt(head, whole, [leaving], shift)
    return head


def phi(deviations: float) -> float:
    """Share of a normal distribution below so many deviations."""
    return (1 + math.erf(deviations / math.sqrt(2))) / 2


@pytest.mark.parametrize(("part", "telling"), [("line", LINE), ("net", NET)])
def test_it_doubts_frames_without_the_object(
    part: str, telling: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doubt_fit, "WEIGHT_DECAY", 0.0)  # which would move the line
    monkeypatch.setattr(doubt_fit, "SHARE_OF_LINE", float(part == "line"))
    whole, leaving = NOTHING, samples(([True] * 3 + [False]) * 500, 1, telling=telling)
    head = fitted(whole, leaving)
    fresh = samples([True, False] * 1000, 2, telling=telling)
    right = doubts(head, fresh) != fresh.in_view_n
    # the best line between normal distributions two deviations apart, of which one weighs more
    line = 1 + math.log(ABSENT / PASTED) / 2
    for kind, best in ((True, phi(2 - line)), (False, phi(line))):
        assert float(right[fresh.in_view_n == kind].float().mean()) == pytest.approx(best, abs=0.05)


def test_fits_are_repeatable_and_shift() -> None:
    whole, leaving = samples([True] * 50, 0), samples(([True] * 3 + [False]) * 50, 1)
    head, again = fitted(whole, leaving).state_dict(), fitted(whole, leaving).state_dict()
    assert all(torch.equal(head[name], again[name]) for name in head)
    shifted = fitted(whole, leaving, -1.5).state_dict()
    differing = [name for name in head if not torch.equal(head[name], shifted[name])]
    assert differing == ["line.bias"]
    assert float(shifted["line.bias"] - head["line.bias"]) == pytest.approx(-1.5, abs=1e-5)


def test_it_says_what_line_and_net_say_on_average(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, leaving = samples([True] * 50, 0), samples(([True] * 3 + [False]) * 50, 1)
    together = fitted(whole, leaving)
    apart = []
    for share in (1.0, 0.0):
        monkeypatch.setattr(doubt_fit, "SHARE_OF_LINE", share)
        apart.append(fitted(whole, leaving))
    with torch.no_grad():
        line, net, both = (head(leaving.inputs_nk) for head in (*apart, together))
    torch.testing.assert_close(both, 2 / 3 * line + 1 / 3 * net, atol=1e-4, rtol=1e-4)


def test_the_net_sees_what_no_line_does() -> None:
    """Without the object a sign is either large or small."""
    leaving = samples(([True] * 3 + [False]) * 400, 1, telling=0)
    inputs, gone = leaving.inputs_nk.clone(), ~leaving.in_view_n
    inputs[:, 0] = 0.0
    inputs[gone, NET] += torch.where(torch.arange(int(gone.sum())) % 2 == 0, 5.0, -5.0)
    odd = DoubtSamples(inputs, leaving.in_view_n)
    assert float((doubts(fitted(NOTHING, odd), odd) != odd.in_view_n).float().mean()) > 0.95


def test_frames_of_whole_sequences_weigh_more() -> None:
    """They look a little like frames without the object here, and are doubted less for it."""
    leaving = samples([True, False] * 500, 1)
    hard = samples([True] * 300, 3, off=-1.0)
    with_them = float(doubts(fitted(hard, leaving), hard).float().mean())
    joined = DoubtSamples(
        torch.cat([hard.inputs_nk, leaving.inputs_nk]), torch.cat([hard.in_view_n, leaving.in_view_n])
    )
    assert with_them < float(doubts(fitted(NOTHING, joined), hard).float().mean()) - 0.1


def test_the_line_is_the_average_of_its_rounds() -> None:
    whole = samples([True] * 100, 0)
    rounds = [samples(([True] * 3 + [False]) * 50, seed) for seed in (1, 2)]
    both, apart = DoubtHead(CHANNELS), [fitted(whole, leaving).line for leaving in rounds]
    fit_doubt(both, whole, rounds, -0.5)
    assert not torch.allclose(apart[0].weight, apart[1].weight, atol=1e-3)
    for name, shift in (("weight", 0.0), ("bias", -0.5)):
        mean = (getattr(apart[0], name) + getattr(apart[1], name)) / 2 + shift
        torch.testing.assert_close(getattr(both.line, name), mean)


def test_there_must_be_frames_of_both_kinds() -> None:
    present = samples([True] * 10, 0)
    with pytest.raises(TrainingError, match="leaves the picture"):
        fitted(present, present)


def test_what_the_head_sees_is_kept(
    tiny_arch: EmbeddedArch, davis_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(presence_head, "KNOWN_IOU", -1.0)
    torch.manual_seed(0)
    plain = build_embedded(tiny_arch).eval().requires_grad_(False)
    with pytest.raises(TrainingError, match="no doubt head"):
        collect_doubts(plain, [])
    plain.sam_mask_decoder.pred_obj_score_head.layers[-1].bias.fill_(3.0)
    save_weights(plain.state_dict(), tiny_arch, tmp_path / "w.safetensors", {})
    model = load_with_doubt(tmp_path / "w.safetensors")
    head = doubt_head_of(model)
    assert head is not None
    found = collect_doubts(model, whole_clips(davis_root))
    assert found.inputs_nk.shape == (len(found.in_view_n), tiny_arch.d_model + len(SIGNS))
    assert found.in_view_n.all() and len(found.in_view_n) == 2 * 19
    assert found.inputs_nk[:, tiny_arch.d_model : -1].std(0).min() > 0  # all signs but the border's
    assert not head._forward_pre_hooks


def test_only_the_head_of_the_files_is_new(
    davis_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(presence_head, "KNOWN_IOU", -1.0)
    bundle, original = tmp_path / "bundle.safetensors", tmp_path / "original.safetensors"
    # else it finds nothing to doubt on clips as easy as these
    shift = ["shift-presence", "--by", "8", "--out"]
    assert main([*shift, str(original), str(resolve_model("embedded-fp16"))]) == 0
    assert main([*shift, str(bundle), str(resolve_model("embedded")), "--original", str(original)]) == 0
    out, weights_out = tmp_path / "b.safetensors", tmp_path / "w.safetensors"
    command = ["fit-doubt", str(bundle), "--davis-root", str(davis_root), "--rounds", "1", "--frames", "12"]
    command += ["--out", str(out)]
    assert main(command) == 1
    assert main([*command, "--original", str(original), "--original-out", str(weights_out)]) == 0
    heads = []
    for before, after in ((bundle, out), (original, weights_out)):
        first, second = load_model(before), load_model(after)
        a, b = first.state_dict(), second.state_dict()
        changed = {name for name in b if name not in a or not torch.equal(a[name], b[name])}
        assert a.keys() <= b.keys() and changed
        assert all(name.startswith("sam_mask_decoder.pred_obj_score_head.doubt.") for name in changed)
        heads.append(doubt_head_of(second))
    assert heads[0] is not None and heads[1] is not None
    for one, other in zip(heads[0].parameters(), heads[1].parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-3, rtol=1e-2)
    assert read_header(out).model.base_sha256 == sha256_of(weights_out)
    assert {name for name in load_file(weights_out) if "doubt" in name}


def test_a_head_is_written_into_a_file_that_has_none(
    tiny_arch: EmbeddedArch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    start, out = tmp_path / "start.safetensors", tmp_path / "out.safetensors"
    save_weights(build_embedded(tiny_arch).state_dict(), tiny_arch, start, {})
    head = DoubtHead(tiny_arch.d_model)
    for parameter in head.parameters():
        nn.init.normal_(parameter)
    save_with_doubt(start, head, out)
    loaded = doubt_head_of(load_model(out))
    assert doubt_head_of(load_model(start)) is None and loaded is not None
    for one, other in zip(loaded.parameters(), head.parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-3, rtol=1e-2, check_dtype=False)
    trained = start_model(out, None, tiny_arch, tiny_arch.input_size)
    still = {name for name, parameter in trained.named_parameters() if not parameter.requires_grad}
    assert still == {f"sam_mask_decoder.pred_obj_score_head.doubt.{name}" for name in head.state_dict()}
    torch.manual_seed(0)
    official = build_official(model_spec("sam2.1_hiera_tiny"), image_size=128)
    monkeypatch.setattr(weights, "load_model", lambda _path: official)
    with pytest.raises(TrainingError, match="Only compact models"):
        load_with_doubt(start)
