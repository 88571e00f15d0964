"""Lowering whole models, and the remembered measurement of the machine."""

from __future__ import annotations

import json

import pytest
import torch

from qcore.models import EmbeddedArch, build_embedded, build_official, model_spec
from qcore.runtime import Precision, lower, probe
from qcore.runtime.attention import AttentionWay
from qcore.runtime.efficientnet import FastEfficientNetTrunk
from qcore.runtime.hiera import FastHiera


@torch.inference_mode()
def test_the_embedded_model_computes_the_same_after_lowering() -> None:
    torch.manual_seed(0)
    model = build_embedded(EmbeddedArch(input_size=128))
    image = torch.randn(1, 3, 128, 128)
    before = model.forward_image(image)["backbone_fpn"]
    report = lower(model, Precision.FP32)
    assert report.replaced == ("memory_attention", "trunk", "neck", "memory_encoder", "sam_mask_decoder")
    assert isinstance(model.image_encoder.trunk, FastEfficientNetTrunk)
    for got, want in zip(model.forward_image(image)["backbone_fpn"], before, strict=True):
        assert torch.allclose(got, want, atol=1e-4)


@torch.inference_mode()
def test_the_official_tiny_computes_the_same_after_lowering_twice() -> None:
    torch.manual_seed(0)
    model = build_official(model_spec("sam2.1_hiera_tiny"), image_size=128).eval()
    image = torch.randn(1, 3, 128, 128)
    before = model.forward_image(image)["backbone_fpn"]
    lower(model, Precision.FP32)
    trunk = model.image_encoder.trunk
    assert isinstance(trunk, FastHiera)
    assert lower(model, Precision.FP32).kept == ()
    assert model.image_encoder.trunk is trunk
    for got, want in zip(model.forward_image(image)["backbone_fpn"], before, strict=True):
        assert torch.allclose(got, want, atol=1e-4)


def test_foreign_parts_stay_and_are_reported() -> None:
    model = build_embedded(EmbeddedArch(input_size=128))
    model.image_encoder.trunk = torch.nn.Sequential(model.image_encoder.trunk)
    report = lower(model, Precision.BF16)
    assert report.replaced == ("memory_attention", "neck", "memory_encoder", "sam_mask_decoder")
    assert report.kept == ("trunk: no kernels for Sequential",)
    assert report.summary == "CPU bf16"


def test_the_measurement_is_made_once_per_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    first = probe.cpu_kernels()
    assert first.float32_ms > 0 and first.bfloat16_ms > 0
    monkeypatch.setattr(probe, "measure", lambda: pytest.fail("measured again"))
    assert probe.cpu_kernels() == first


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 2, "probe": {"processor": 1}}', "\0"])
def test_a_damaged_measurement_is_made_again(text: str) -> None:
    probe.cpu_kernels()
    probe.cache_file().write_text(text)
    assert probe.cpu_kernels().processor == probe.processor_name()
    assert json.loads(probe.cache_file().read_text())["format"] == probe._FORMAT


def test_bf16_must_win_clearly() -> None:
    times = {"processor": "", "torch_version": "", "packed_linear": True}
    slow = probe.KernelProbe(**times, packed_convolution=True, float32_ms=1.0, bfloat16_ms=0.95)
    fast = probe.KernelProbe(**times, packed_convolution=True, float32_ms=1.0, bfloat16_ms=0.5)
    assert slow.dtype is torch.float32
    assert fast.dtype is torch.bfloat16


def test_the_fastest_attention_is_taken_for_each_arithmetic() -> None:
    times = {
        "float32": {"packed": 2.0, "plain": 1.0, "fused": 3.0},
        "bfloat16": {"packed": 2.0, "fused": 1.0},
    }
    measured = probe.KernelProbe("", "", 1.0, 0.5, True, True, attention_ms=times)
    assert measured.attention_way("float32") is AttentionWay.PLAIN
    assert measured.attention_way("bfloat16") is AttentionWay.FUSED
    assert probe.KernelProbe("", "", 1.0, 0.5, True, True).attention_way("float32") is AttentionWay.PACKED
