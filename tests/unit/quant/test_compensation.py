"""Compensated rounding against explicit least squares, and on every kind of layer it knows."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from qcore.quant.adaround import LearnedRounding
from qcore.quant.compensation import compensate_unit, spread_errors
from qcore.quant.fake_quantize import QuantizerState, WeightQuantizer, set_state
from qcore.quant.layers import QuantizedLayer
from qcore.quant.units import Unit, UnitCall


def nearest(column: Tensor) -> Tensor:
    return torch.round(column)


def by_least_squares(weight_n: Tensor, h_nn: Tensor, rounded: int) -> Tensor:
    """Round one column, then move all later ones to where (w - w_hat) H (w - w_hat) is least."""
    order = [*h_nn.diagonal()[:rounded].argsort(descending=True).tolist(), *range(rounded, len(weight_n))]
    w, fixed, seen = weight_n.clone(), weight_n.clone(), weight_n.clone()
    for step in range(rounded):
        i, rest = order[step], order[step + 1 :]
        seen[i] = w[i]
        fixed[i] = torch.round(w[i])
        done = order[: step + 1]
        error = weight_n[done] - fixed[done]
        # the gradient over the rest is zero: H_rr (w - w_hat)_r = -H_rd (w - w_hat)_d
        difference = torch.linalg.solve(h_nn[rest][:, rest], -h_nn[rest][:, done] @ error)
        w[rest] = weight_n[rest] - difference
    seen[order[rounded:]] = w[order[rounded:]]
    return seen


def test_errors_are_spread_as_least_squares_says() -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, 7, 40, generator=generator, dtype=torch.float64)
    x[:, 1:] += 0.8 * x[:, :-1]
    h = x @ x.mT
    weight = 3 * torch.randn(2, 3, 7, generator=generator, dtype=torch.float64)
    # one order for all batches: give both the same diagonal order
    h[1] = h[0]
    got = spread_errors(weight, h, 6, nearest)
    for batch in range(2):
        for row in range(3):
            wanted = by_least_squares(weight[batch, row], h[batch], 6)
            assert torch.allclose(got[batch, row], wanted, atol=1e-9)


def test_unrelated_inputs_leave_nothing_to_spread() -> None:
    weight = torch.tensor([[[0.3, 1.7, -2.4]]], dtype=torch.float64)
    h = torch.diag(torch.tensor([1.0, 5.0, 2.0], dtype=torch.float64))[None]
    assert torch.equal(spread_errors(weight, h, 3, nearest), weight)


LAYERS = {
    "linear": (nn.Linear(12, 5), (40, 12)),
    "no bias": (nn.Linear(12, 5, bias=False), (40, 12)),
    "pointwise": (nn.Conv2d(6, 4, 1), (1, 6, 8, 8)),
    "pointwise with stride": (nn.Conv2d(6, 4, 1, stride=2), (2, 6, 8, 8)),
    "depthwise": (nn.Conv2d(6, 6, 3, padding=1, groups=6), (1, 6, 10, 10)),
    "depthwise with stride": (nn.Conv2d(6, 6, 5, stride=2, padding=2, groups=6), (2, 6, 12, 12)),
}


@pytest.mark.parametrize("kind", list(LAYERS))
def test_every_kind_of_layer_answers_better_than_with_nearest_rounding(kind: str) -> None:
    torch.manual_seed(0)
    plain, shape = copy.deepcopy(LAYERS[kind][0]), LAYERS[kind][1]
    for parameter in plain.parameters():
        nn.init.normal_(parameter)
    plain.requires_grad_(False)

    def rounded() -> QuantizedLayer:
        channels = plain.get_parameter("weight").shape[0]
        layer = QuantizedLayer(copy.deepcopy(plain), WeightQuantizer(3, channels), None)
        layer.weight_quantizer.observe(layer.weight, "mse")
        set_state(layer, weights=QuantizerState.ON)
        return layer

    inputs = [torch.randn(shape).cumsum(1).cumsum(-1) + 1 for _ in range(6)]
    calls = [UnitCall(0, i, (x,), {}) for i, x in enumerate(inputs)]
    layer = rounded()
    unit = Unit("layer", "image_encoder", layer, plain, "layer", "all", 1)
    compensate_unit(unit, calls, calls, "mse")

    def error(module: nn.Module) -> float:
        return sum(float((module(x) - plain(x)).pow(2).mean()) for x in inputs)

    assert error(layer) < 0.7 * error(rounded())
    before = layer(inputs[0])
    layer.freeze()
    assert torch.allclose(layer(inputs[0]), before, atol=1e-4)


def test_a_map_that_changed_its_inputs_is_undone() -> None:
    """The quantized prefix halves the inputs: weights of twice the size give the original's outputs."""
    torch.manual_seed(0)
    plain = nn.Linear(8, 4).requires_grad_(False)
    layer = QuantizedLayer(copy.deepcopy(plain), WeightQuantizer(7, 4), None)
    layer.weight_quantizer.observe(layer.weight, "minmax")
    set_state(layer, weights=QuantizerState.ON)
    theirs = [UnitCall(0, i, (torch.randn(200, 8),), {}) for i in range(4)]
    ours = [UnitCall(0, i, (call.args[0] * 0.5,), {}) for i, call in enumerate(theirs)]
    unit = Unit("layer", "image_encoder", layer, plain, "layer", "all", -1)
    compensate_unit(unit, ours, theirs, "minmax")
    x = theirs[0].args[0]
    assert float((layer(x * 0.5) - plain(x)).pow(2).mean() / plain(x).var()) < 1e-2


def test_learned_rounding_can_start_close_to_decided() -> None:
    weight = torch.tensor([[0.2, 0.8, -1.3, 2.5001]])
    scale, zero = torch.ones(1), torch.full((1,), 4, dtype=torch.int32)
    rounding = LearnedRounding(weight, scale, zero, 4, 0, decided=True)
    assert torch.allclose(rounding.soft_weight(), torch.round(weight), atol=0.06)
    assert rounding.hard_codes().tolist() == [[4, 5, 3, 7]]
