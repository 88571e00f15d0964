from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from qcore.models import load_model
from qcore.models.embedded import EmbeddedArch, build_embedded
from qcore.training.__main__ import main as training
from qcore.training.errors import TrainingError
from qcore.training.losses import LossConfig, RawOutput, frame_loss
from qcore.training.pack import TrainingPack
from qcore.training.prompts import IGNORED, box_prompt, click_prompt, join
from qcore.training.recipes import RECIPES, BatchShape, Phase, Recipe
from qcore.training.step import ClipRunner, PromptMix, collate
from qcore.training.synthesis import ClipGenerator, SynthesisConfig
from qcore.training.trainer import Budget, RunConfig, Trainer, averaged_weights
from qcore.training.weights import blend, load_trunk, prepare_new, save_weights, start_model

TINY = Recipe(
    phases=(Phase(1.0, ((0.5, BatchShape(1, 1, 2)), (0.5, BatchShape(1, 3, 1)))),),
    image_size=64,
    warmup_steps=1,
    synthesis=SynthesisConfig(size=64),
)


def _raw(logits: torch.Tensor, presence: float = 3.0) -> RawOutput:
    count, candidates = logits.shape[:2]
    return RawOutput(logits, torch.full((count, candidates), 0.5), torch.full((count,), presence))


def test_the_loss_is_what_its_formula_says() -> None:
    torch.manual_seed(0)
    logits = torch.randn(1, 1, 8, 8)
    truth = (torch.rand(1, 16, 16) > 0.4).float()
    got = frame_loss(_raw(logits), truth, LossConfig(boundary=0.0))
    z = F.interpolate(logits, scale_factor=2, mode="bilinear", align_corners=False)[0, 0].double().numpy()
    t = truth[0].double().numpy()
    p = 1 / (1 + np.exp(-z))
    entropy = -(t * np.log(p) + (1 - t) * np.log(1 - p))
    focal = 20 * (entropy * (p - t) ** 2 * 0.5).mean()
    dice = 1 - (2 * (p * t).sum() + 1) / (p.sum() + t.sum() + 1)
    iou = ((z > 0) & (t > 0.5)).sum() / ((z > 0) | (t > 0.5)).sum()
    expected = focal + dice + abs(0.5 - iou) + np.log(1 + np.exp(-3.0))
    assert float(got.loss) == pytest.approx(expected, rel=1e-4)
    assert got.iou == pytest.approx(iou, rel=1e-5)


def test_a_perfect_answer_costs_nearly_nothing() -> None:
    truth = torch.zeros(1, 32, 32)
    truth[:, 8:24, 8:24] = 1
    logits = F.avg_pool2d(truth[:, None], 2) * 60 - 30
    raw = RawOutput(logits, torch.ones(1, 1), torch.full((1,), 20.0))
    assert float(frame_loss(raw, truth, LossConfig(boundary=0.0)).loss) < 0.05


def test_only_the_best_candidate_is_taught() -> None:
    truth = torch.zeros(1, 32, 32)
    truth[:, 8:24, 8:24] = 1
    good = F.avg_pool2d(truth[:, None], 2) * 8 - 4
    logits = torch.cat([-good, good], 1).requires_grad_()
    raw = RawOutput(logits, torch.ones(1, 2), torch.zeros(1))
    frame_loss(raw, truth, LossConfig()).loss.backward()
    assert logits.grad is not None
    assert float(logits.grad[0, 0].abs().sum()) == 0
    assert float(logits.grad[0, 1].abs().sum()) > 0


def test_an_absent_object_teaches_presence_and_no_mask() -> None:
    logits = torch.randn(1, 1, 8, 8, requires_grad=True)
    presence = torch.zeros(1, requires_grad=True)
    raw = RawOutput(logits, torch.zeros(1, 1), presence)
    frame_loss(raw, torch.zeros(1, 16, 16), LossConfig()).loss.backward()
    assert logits.grad is not None
    assert presence.grad is not None
    assert float(logits.grad.abs().sum()) == 0
    assert float(presence.grad) > 0, "the score must fall"


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_boxes_hold_their_object_and_clicks_hit_the_error(seed: int) -> None:
    rng = np.random.default_rng(seed)
    mask = np.zeros((1, 40, 50), bool)
    y, x = int(rng.integers(0, 30)), int(rng.integers(0, 40))
    h, w = int(rng.integers(2, 10)), int(rng.integers(2, 10))
    mask[0, y : y + h, x : x + w] = True
    (x0, y0), (x1, y1) = box_prompt(mask, rng)["point_coords"][0].tolist()
    tolerance = 0.081
    assert abs(x0 - x) <= tolerance * w + 1e-4
    assert abs(y0 - y) <= tolerance * h + 1e-4
    assert abs(x1 - x - w) <= tolerance * w + 1e-4
    assert abs(y1 - y - h) <= tolerance * h + 1e-4
    nothing = np.zeros_like(mask)
    for missing, extra, label in ((mask, nothing, 1), (nothing, mask, 0)):
        click = click_prompt(missing, extra, rng)
        cx, cy = (int(v) for v in click["point_coords"][0, 0].tolist())
        assert mask[0, cy, cx]
        assert int(click["point_labels"][0, 0]) == label
    assert int(click_prompt(nothing, nothing, rng)["point_labels"][0, 0]) == IGNORED


def test_joined_prompts_keep_both_points() -> None:
    rng = np.random.default_rng(0)
    mask = np.ones((2, 8, 8), bool)
    both = join(box_prompt(mask, rng), click_prompt(mask, ~mask, rng))
    assert both["point_labels"].tolist() == [[2, 3, 1], [2, 3, 1]]


@pytest.mark.parametrize("kind", ["box", "click", "corrected", "mask"])
def test_every_prompt_teaches_every_part(tiny_pack: TrainingPack, tiny_arch: EmbeddedArch, kind: str) -> None:
    torch.manual_seed(0)
    model = build_embedded(tiny_arch).train()
    prepare_new(model)
    clips = [ClipGenerator(tiny_pack, TINY.synthesis, seed).clip(4, 2) for seed in (1, 2)]
    mix = PromptMix(**{name: float(name == kind) for name in ("box", "click", "corrected", "mask")})
    runner = ClipRunner(model, torch.device("cpu"))
    result = runner(
        collate(clips), replace(mix, later_correction=1.0), LossConfig(), np.random.default_rng(0)
    )
    result.loss.backward()
    assert "t3" in result.iou
    assert "later" in result.iou
    assert ("box" in result.iou) == (kind == "box")
    for part in (
        "image_encoder.trunk",
        "memory_attention",
        "memory_encoder",
        "sam_mask_decoder",
        "obj_ptr_proj",
    ):
        gradients = [p.grad for n, p in model.named_parameters() if n.startswith(part) and p.grad is not None]
        assert sum(float(g.abs().sum()) for g in gradients) > 0, part


def test_training_sees_the_masks_that_tracking_gives(
    tiny_pack: TrainingPack, tiny_arch: EmbeddedArch
) -> None:
    """Oracle: upstream's own video predictor on the same frames and box."""
    from sam2.sam2_video_predictor import SAM2VideoPredictor

    torch.manual_seed(3)
    model = build_embedded(tiny_arch)
    prepare_new(model)
    clip = ClipGenerator(tiny_pack, TINY.synthesis, 4).clip(3, 1)
    seen: list[torch.Tensor] = []
    model.sam_mask_decoder.register_forward_hook(lambda _m, _i, out: seen.append(out[0].detach()))
    runner = ClipRunner(model, torch.device("cpu"))
    rng = np.random.default_rng(0)
    truth = clip.masks_kthw[:, 0] > 127
    box = box_prompt(truth, np.random.default_rng(0))["point_coords"][0].numpy()
    # the runner draws the later correction and the kind of prompt before the box
    mix = PromptMix(1.0, 0.0, 0.0, 0.0, later_correction=0.0)
    with torch.no_grad():
        runner(collate([clip]), mix, LossConfig(), rng)

    predictor = build_embedded(tiny_arch, SAM2VideoPredictor, fill_hole_area=0)
    predictor.load_state_dict(model.state_dict())
    mean = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
    deviation = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
    images = (torch.from_numpy(clip.frames_thwc).permute(0, 3, 1, 2).float() / 255 - mean) / deviation
    import sam2.sam2_video_predictor as upstream

    loader = upstream.load_video_frames
    upstream.load_video_frames = lambda **_: (images, 64, 64)
    try:
        state = predictor.init_state("frames")
    finally:
        upstream.load_video_frames = loader
    state["num_frames"] = 100
    # the box that the runner drew: same generator state after its two draws
    replay = np.random.default_rng(0)
    replay.random()
    replay.choice(4, p=[1.0, 0, 0, 0])
    box = box_prompt(truth, replay)["point_coords"][0].numpy().reshape(4)
    predictor.add_new_points_or_box(state, 0, 1, box=box)
    predictor.propagate_in_video_preflight(state)
    theirs = []
    for t, _ids, masks in predictor.propagate_in_video(state, max_frame_num_to_track=2):
        theirs.append(masks)
        if t == 2:
            break
    for t in (1, 2):
        ours = F.interpolate(seen[t], size=(64, 64), mode="bilinear", align_corners=False)
        torch.testing.assert_close(ours, theirs[t], atol=2e-3, rtol=2e-3)


def _config(out: Path, steps: int, **changes: object) -> RunConfig:
    return replace(RunConfig(out=out, budget=Budget(steps=steps), keep_every=1), **changes)


def _trainer(pack: TrainingPack, arch: EmbeddedArch, config: RunConfig) -> Trainer:
    torch.manual_seed(1)
    return Trainer(start_model(None, None, arch, 64), arch, TINY, pack, config)


def test_an_interrupted_training_ends_with_the_same_weights(
    tiny_pack: TrainingPack, tiny_arch: EmbeddedArch, tmp_path: Path
) -> None:
    whole = _trainer(tiny_pack, tiny_arch, _config(tmp_path / "whole", 3))
    assert whole.run()
    part = _trainer(tiny_pack, tiny_arch, _config(tmp_path / "parts", 3, stop_after_minutes=1e-9))
    parts = 0
    while not part.run():
        parts += 1
        part = _trainer(tiny_pack, tiny_arch, _config(tmp_path / "parts", 3, stop_after_minutes=1e-9))
        assert part.resume()
    assert parts == 2
    for name, value in whole.average.items():
        torch.testing.assert_close(part.average[name], value, msg=name)


def test_a_step_changes_what_it_trains_and_leaves_the_frozen_trunk(
    tiny_pack: TrainingPack, tiny_arch: EmbeddedArch, tmp_path: Path
) -> None:
    trainer = _trainer(tiny_pack, tiny_arch, _config(tmp_path, 2))
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    trainer.run()
    after = trainer.model.state_dict()
    assert torch.equal(before["image_encoder.trunk.stem.weight"], after["image_encoder.trunk.stem.weight"])
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    assert any("blocks.10" in name for name in changed)
    assert any("mask_decoder" in name for name in changed)


def test_training_learns(tiny_pack: TrainingPack, tiny_arch: EmbeddedArch) -> None:
    torch.manual_seed(0)
    model = build_embedded(tiny_arch).train()
    prepare_new(model)
    clip = collate([ClipGenerator(tiny_pack, TINY.synthesis, 2).clip(2, 1)])
    runner = ClipRunner(model, torch.device("cpu"))
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3)
    losses = []
    for _ in range(9):
        optimizer.zero_grad()
        mix = PromptMix(1.0, 0.0, 0.0, 0.0)
        result = runner(clip, mix, LossConfig(balance=1.0), np.random.default_rng(0))
        result.loss.backward()
        optimizer.step()
        losses.append(float(result.loss.detach()))
    assert np.mean(losses[-3:]) < 0.8 * losses[0]


def test_another_seed_does_not_take_over_a_folder(
    tiny_pack: TrainingPack, tiny_arch: EmbeddedArch, tmp_path: Path
) -> None:
    _trainer(tiny_pack, tiny_arch, _config(tmp_path, 1)).run()
    with pytest.raises(TrainingError, match="another training"):
        _trainer(tiny_pack, tiny_arch, _config(tmp_path, 1, seed=9)).resume()


def test_the_result_is_a_model_that_the_program_loads(
    tiny_pack: TrainingPack, tiny_arch: EmbeddedArch, tmp_path: Path
) -> None:
    _trainer(tiny_pack, tiny_arch, _config(tmp_path, 1)).run()
    state, arch, steps, _ = averaged_weights(tmp_path / "last.pt")
    save_weights(state, arch, tmp_path / "m.safetensors", {"steps": steps})
    model = load_model(tmp_path / "m.safetensors")
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, state[name], atol=1e-3, rtol=1e-3)
    with pytest.raises(TrainingError, match="diverged"):
        save_weights({"a": torch.tensor([float("nan")])}, arch, tmp_path / "n.safetensors", {})


def test_a_blend_lies_between_two_models(tiny_arch: EmbeddedArch, tmp_path: Path) -> None:
    files = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    states = []
    for seed, path in enumerate(files):
        torch.manual_seed(seed)
        states.append(build_embedded(tiny_arch).state_dict())
        save_weights(states[-1], tiny_arch, path, {})
    out = tmp_path / "c.safetensors"
    command = ["blend", str(files[0]), str(files[1]), "--share", "0.75", "--out", str(out)]
    assert training([*command, "--presence-shift", "-2"]) == 0
    for name, value in load_model(out).state_dict().items():
        expected = 0.25 * states[0][name] + 0.75 * states[1][name]
        if name == "sam_mask_decoder.pred_obj_score_head.layers.2.bias":
            expected = expected - 2
        assert torch.allclose(value, expected, rtol=2e-3, atol=2e-3), name
    other = replace(tiny_arch, ffn_dim=tiny_arch.ffn_dim * 2)
    save_weights(build_embedded(other).state_dict(), other, files[1], {})
    with pytest.raises(TrainingError, match="different dimensions"):
        blend(files[0], files[1], 0.5)
    with pytest.raises(TrainingError, match="between 0 and 1"):
        blend(files[0], files[0], 1.5)


def test_batches_do_not_depend_on_the_number_of_workers(
    tiny_pack: TrainingPack, tiny_arch: EmbeddedArch, tmp_path: Path
) -> None:
    alone = _trainer(tiny_pack, tiny_arch, _config(tmp_path, 3))
    helped = _trainer(tiny_pack, tiny_arch, _config(tmp_path, 3, workers=1))
    for _, (ours, shape), (theirs, other_shape) in zip(range(3), alone._batches(), helped._batches()):
        assert shape == other_shape
        assert torch.equal(ours.frames_bthwc, theirs.frames_bthwc)
        assert torch.equal(ours.masks_nthw, theirs.masks_nthw)


def test_half_precision_gives_nearly_the_same_loss(tiny_pack: TrainingPack, tiny_arch: EmbeddedArch) -> None:
    torch.manual_seed(0)
    model = build_embedded(tiny_arch).train()
    prepare_new(model)
    batch = collate([ClipGenerator(tiny_pack, TINY.synthesis, 7).clip(3, 2)])
    losses = []
    for half in (False, True):
        runner = ClipRunner(model, torch.device("cpu"), half)
        result = runner(batch, PromptMix(1.0, 0.0, 0.0, 0.0), LossConfig(), np.random.default_rng(0))
        result.loss.backward()
        losses.append(float(result.loss.detach()))
    assert losses[1] == pytest.approx(losses[0], rel=0.05)


def test_imagenet_weights_are_folded_exactly(tmp_path: Path) -> None:
    """Oracle: convolution, then batch norm in eval mode, for the first block's layers."""
    model = build_embedded(EmbeddedArch(input_size=64))
    trunk = model.image_encoder.trunk
    torch.manual_seed(0)
    state: dict[str, torch.Tensor] = {}

    def put(conv: torch.nn.Conv2d, conv_name: str, norm: str, kernel: int) -> None:
        state[conv_name + ".weight"] = torch.randn(conv.weight.shape[0], conv.weight.shape[1], kernel, kernel)
        count = conv.weight.shape[0]
        for part in ("weight", "bias", "running_mean"):
            state[f"{norm}.{part}"] = torch.randn(count)
        state[f"{norm}.running_var"] = torch.rand(count) + 0.5

    put(trunk.stem, "_conv_stem", "_bn0", 3)
    kernels = [3, 3, 3, 5, 5, 3, 3, 3, 5, 5, 5, 5, 5, 5, 5, 3]
    for index, block in enumerate(trunk.blocks):
        prefix = f"_blocks.{index}."
        if block.exp is not None:
            put(block.exp, prefix + "_expand_conv", prefix + "_bn0", 1)
        put(block.dw, prefix + "_depthwise_conv", prefix + "_bn1", kernels[index])
        put(block.pw, prefix + "_project_conv", prefix + "_bn2", 1)
    torch.save(state, tmp_path / "lite.pth")
    load_trunk(trunk, tmp_path / "lite.pth")
    image = torch.randn(1, 3, 32, 32)
    padded = F.pad(image, (0, 1, 0, 1))
    norm = [state[f"_bn0.{part}"] for part in ("running_mean", "running_var", "weight", "bias")]
    expected = F.batch_norm(F.conv2d(padded, state["_conv_stem.weight"], stride=2), *norm, eps=1e-3)
    torch.testing.assert_close(trunk.stem(image), expected, atol=1e-4, rtol=1e-4)
    with pytest.raises(TrainingError, match="does not hold"):
        load_trunk(trunk, tmp_path / "absent.pth")


def test_recipes_are_consistent() -> None:
    for recipe in RECIPES.values():
        assert recipe.image_size == recipe.synthesis.size
        assert recipe.phases[-1].until == 1.0
        ends = [phase.until for phase in recipe.phases]
        assert ends == sorted(ends)
    scratch = RECIPES["cpu-scratch"]
    assert scratch.balance_at(0.0) == 1.0
    assert scratch.balance_at(scratch.phases[0].until - 1e-6) == pytest.approx(0.0, abs=1e-4)


def test_a_budget_is_steps_or_minutes(
    tiny_pack: TrainingPack, tiny_arch: EmbeddedArch, tmp_path: Path
) -> None:
    assert Budget(minutes=2).progress(5, 60) == pytest.approx(0.5)
    with pytest.raises(TrainingError, match="either"):
        _trainer(tiny_pack, tiny_arch, RunConfig(tmp_path, Budget()))


def test_previews_are_pictures(tiny_pack: TrainingPack, tmp_path: Path) -> None:
    from qcore.training.__main__ import main
    from qcore.training.pack import PackWriter

    writer = PackWriter()
    photo = np.full((64, 64, 3), 90, np.uint8)
    mask = np.zeros((64, 64), np.uint8)
    mask[20:40, 20:40] = 255
    writer.add_image(photo, [mask], "made-up")
    writer.write(tmp_path / "p.qpack")
    assert main(["preview", "--pack", str(tmp_path / "p.qpack"), "--out", str(tmp_path / "p.png")]) == 0
    assert cv2.imread(str(tmp_path / "p.png")).shape == (8 * 256, 6 * 256, 3)
    assert main(["preview", "--pack", str(tmp_path / "none.qpack"), "--out", str(tmp_path / "p.png")]) == 1
