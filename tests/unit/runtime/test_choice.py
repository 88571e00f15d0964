"""Contests between kernels: their outcome follows the times, is remembered, and changes no result."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable

import pytest
import torch
from quantized_modules import difference, on_codes, quantized_layer
from torch import nn

from qcore.models import EmbeddedArch, build_embedded
from qcore.quant.fake_quantize import QuantizerState
from qcore.quant.softmax_quantizer import LogSoftmaxQuantizer
from qcore.runtime import Precision, lower, probe
from qcore.runtime.attention import packs
from qcore.runtime.choice import Case, Chooser, Timer, Way
from qcore.runtime.integer import has_integer_kernels
from qcore.runtime.linear import PackedLinear
from qcore.runtime.quantized_attention import (
    LogRounding,
    ProductRoundings,
    ProductWays,
    attend_rounded,
    attend_small,
)
from qcore.runtime.quantized_layers import QuantizedConv, QuantizedLinear, conv_kernel, linear_kernel
from qcore.runtime.rounding import Rounding

needs_kernels = pytest.mark.skipif(not has_integer_kernels(), reason="no 8-bit kernels in this torch")


def favouring(*ways: Way) -> Timer:
    """A clock by which these ways take a tenth of the others' time."""
    return lambda _case, way, _call: 0.1 if way in ways else 1.0


def forbidden(case: str, way: Way, _call: Callable[[], object]) -> float:
    raise AssertionError(f"{case} was measured again as {way}")


def test_sizes_are_told_apart_by_powers_of_two() -> None:
    assert Case("linear", (576, 128, 9), "relu").name == "linear 1024x128x16, relu"
    assert Case("linear", (1, 1)).name == Case("linear", (1, 1)).name == "linear 1x1"


@needs_kernels
def test_the_clock_decides_how_a_linear_layer_is_computed() -> None:
    x = torch.randn(33, 40)
    layer = quantized_layer(nn.Linear(40, 24), x, 6, 6)
    x = on_codes(layer.input_quantizer, x)
    kernels = {
        way: linear_kernel(layer, torch.float32, 33, integers=Chooser(timer=favouring(way)))
        for way in (Way.INTEGER, Way.PACKED, Way.PLAIN)
    }
    found = {}
    for way, kernel in kernels.items():
        assert isinstance(kernel, QuantizedLinear)
        found[way] = (kernel.integer is not None, kernel.float is not None and kernel.float.matrix.packed)
        assert difference(kernel(x), layer(x)) < 1e-5
    assert list(found.values()) == [(True, False), (False, True), (False, False)]


def test_the_clock_decides_for_plain_layers_too() -> None:
    layer, x = nn.Linear(40, 24).requires_grad_(False), torch.randn(5, 40)
    for way in (Way.PACKED, Way.PLAIN):
        kernel = linear_kernel(layer, torch.float32, 5, "gelu", integers=Chooser(timer=favouring(way)))
        assert isinstance(kernel, PackedLinear)
        assert kernel.matrix.packed <= (way is Way.PACKED)
        assert torch.allclose(kernel(x), nn.functional.gelu(layer(x)), atol=1e-5)


@needs_kernels
def test_the_clock_decides_how_a_convolution_is_computed() -> None:
    x = torch.randn(1, 16, 10, 10)
    layer = quantized_layer(nn.Conv2d(16, 8, 3, 1, 1), x, 6, 6)
    for way in (Way.INTEGER, Way.PACKED):
        kernel = conv_kernel(layer, torch.float32, 10, Chooser(timer=favouring(way)))
        assert isinstance(kernel, QuantizedConv)
        assert (kernel.integer is not None) == (way is Way.INTEGER)


@needs_kernels
def test_without_integers_they_take_no_part() -> None:
    x = torch.randn(9, 16)
    layer = quantized_layer(nn.Linear(16, 8), x, 6, 6)
    chooser = Chooser(integers=False, timer=favouring(Way.INTEGER))
    kernel = linear_kernel(layer, torch.float32, 9, integers=chooser)
    assert isinstance(kernel, QuantizedLinear)
    assert kernel.integer is None
    assert all("int8" not in times for times in chooser.known.values())


def test_what_is_known_is_not_measured_again() -> None:
    calls = {way: lambda: lambda: None for way in (Way.PACKED, Way.PLAIN)}
    first = Chooser(timer=favouring(Way.PLAIN))
    assert first.fastest(Case("scores", (5, 5)), calls) is Way.PLAIN
    again = Chooser(first.known, timer=forbidden)
    assert again.fastest(Case("scores", (7, 8)), calls) is Way.PLAIN
    assert (first.measured, again.measured) == (1, 0)


def test_a_way_that_was_not_measured_is_measured_with_its_rivals() -> None:
    known = {"scores 8x8": {str(Way.PACKED): 5.0}}
    calls = {way: lambda: lambda: None for way in (Way.PACKED, Way.PLAIN)}
    chooser = Chooser(known, timer=favouring(Way.PACKED))
    assert chooser.fastest(Case("scores", (8, 8)), calls) is Way.PACKED
    assert chooser.known["scores 8x8"] == {"float, packed": 0.1, "float, plain": 1.0}


def test_a_close_race_is_run_again() -> None:
    slow_at_first = {Way.PACKED: [1.5, 0.5, 0.6], Way.PLAIN: [1.0, 1.0, 1.0], Way.INTEGER: [9.0]}
    chooser = Chooser(timer=lambda _case, way, _call: slow_at_first[way].pop(0))
    calls = {way: lambda: lambda: None for way in slow_at_first}
    assert chooser.fastest(Case("scores", (8, 8)), calls) is Way.PACKED
    assert chooser.known["scores 8x8"] == {"float, packed": 0.5, "float, plain": 1.0, "int8": 9.0}


def test_real_work_is_timed() -> None:
    times = {
        Way.PACKED: lambda: lambda: torch.randn(200, 200).mm(torch.randn(200, 200)),
        Way.PLAIN: lambda: lambda: None,
    }
    assert Chooser().fastest(Case("anything", (1,)), times) is Way.PLAIN


def test_a_machine_remembers_the_times_of_its_models(monkeypatch: pytest.MonkeyPatch) -> None:
    arch = EmbeddedArch(input_size=128)
    lower(build_embedded(arch), Precision.FP32)
    known = probe.remembered_choices()
    assert any(name.startswith("linear ") for name in known)
    monkeypatch.setattr("qcore.runtime.probe.Chooser", lambda *a, **k: Chooser(*a, **k, timer=forbidden))
    lower(build_embedded(arch), Precision.FP32)
    content = json.loads(probe.cache_file().read_text())
    content["choices"] = {"linear": 3}
    probe.cache_file().write_text(json.dumps(content))
    assert probe.remembered_choices() == {}


def roundings(bits: int, per_channel: bool = False) -> ProductRoundings:
    top = 2**bits - 1
    middle = 2 ** (bits - 1)
    value_scale = torch.linspace(3, 5, 16) / top if per_channel else 4.0 / top
    value_zero = torch.full((16,), middle) if per_channel else middle
    value = Rounding(value_scale, value_zero, top)
    # off the middle, as calibration finds them
    query, key = Rounding(6.0 / top, middle - bits, top), Rounding(7.0 / top, middle + bits, top)
    return ProductRoundings(query, key, value, Rounding(1.0 / top, 0, top))


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("bits", [3, 6, 7, 8])
@torch.inference_mode()
def test_every_way_of_an_attention_gives_the_same(bits: int, biased: bool, per_channel: bool) -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(2, 150, 16), torch.randn(2, 40, 16), torch.randn(2, 40, 16)
    parts = roundings(bits, per_channel)
    bias = torch.randn(40) if biased else None
    want = attend_rounded(q, k, v, parts, key_bias_m=bias, ways=ProductWays(Way.PLAIN, Way.PLAIN))
    able = parts.score_ways(), parts.mixing_ways(torch.float32)
    relaid = ("qcore.runtime.quantized_attention.has_plain_byte_product", lambda: False)
    with pytest.MonkeyPatch.context() as without:  # what other processors do
        without.setattr(*relaid)
        others = parts.score_ways(), parts.mixing_ways(torch.float32)
    found = list(itertools.product(*(dict.fromkeys(a + b) for a, b in zip(able, others))))
    assert len(found) >= 4
    for scores, mixing in found:
        got = attend_rounded(q, k, v, parts, key_bias_m=bias, ways=ProductWays(scores, mixing))
        # a probability beside the border of two codes may take the neighbouring one
        assert difference(got, want) < 2e-2 * 2.0 ** (3 - bits), (scores, mixing)


@needs_kernels
def test_the_clock_decides_how_an_attention_is_computed() -> None:
    parts = roundings(6)
    for scores, mixing in itertools.product(parts.score_ways(), parts.mixing_ways(torch.bfloat16)):
        clock: Timer = lambda case, way, _call, a=scores, b=mixing: (  # noqa: E731
            0.1 if way is (a if case.startswith("scores") else b) else 1.0
        )
        ways = ProductWays.fastest(parts, Chooser(timer=clock), (150, 40, 16, 16), torch.bfloat16)
        assert ways == ProductWays(scores, mixing)


@pytest.mark.parametrize("logarithmic", [False, True])
@pytest.mark.parametrize("keys", [9, 40])
@torch.inference_mode()
def test_few_keys_make_no_difference(keys: int, logarithmic: bool) -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(2, 50, 16), torch.randn(2, keys, 16), torch.randn(2, keys, 16)
    parts = roundings(6)
    if logarithmic:
        parts = ProductRoundings(parts.query, parts.key, parts.value, LogRounding(2, 63, None))
    got = attend_small(q, k, v, parts, 0.25)
    want = attend_rounded(q, k, v, parts, scale=0.25, ways=ProductWays(Way.PLAIN, Way.PLAIN))
    assert difference(got, want) < 2e-3


@pytest.mark.parametrize("row_scale", [True, False])
@pytest.mark.parametrize("tau", [1, 2, 4])
@pytest.mark.parametrize("shape", [(3, 5, 40), (1, 70, 3000)])
@torch.inference_mode()
def test_logarithmic_weights_are_the_quantizers(
    shape: tuple[int, int, int], tau: int, row_scale: bool
) -> None:
    scores = 4 * torch.randn(shape, generator=torch.Generator().manual_seed(0))
    quantizer = LogSoftmaxQuantizer(6, (tau,), row_scale)
    quantizer.state = QuantizerState.ON
    quantizer.scale.fill_(0.4)
    want = quantizer(torch.softmax(scores.double(), dim=-1).float())
    rounding = LogRounding(tau, 63, None if row_scale else float(quantizer.scale))
    weights, factor = rounding.weights(scores / math.log(2))
    got = weights * factor
    # a distance half-way between two codes may fall either way
    same = (got - want).abs() <= 1e-5 * want
    assert float(same.float().mean()) > 0.999
    assert float((got / want.clamp(min=1e-9))[want > 0].max()) < 2 ** (1.01 / tau)


@pytest.mark.skipif(not packs(torch.bfloat16), reason="no fast bfloat16 here")
@torch.inference_mode()
def test_mixing_in_bfloat16_as_it_lies_is_the_packed_one() -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(1, 50, 16), torch.randn(1, 40, 16), torch.randn(1, 40, 16)
    parts = roundings(6)
    got, want = (
        attend_rounded(q, k, v, parts, dtype=torch.bfloat16, ways=ProductWays(Way.PLAIN, way))
        for way in (Way.HALF, Way.PACKED)
    )
    assert difference(got, want) < 2e-3
