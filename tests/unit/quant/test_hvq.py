"""Eqs. 4 and 5 by hand, and the margin that spares the perfect quantizer."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qcore.quant.config import HvqConfig
from qcore.quant.hvq import hierarchy_loss, sample_triple, total_loss, triplet


def _features(seed: int) -> torch.Tensor:
    return torch.randn(1, 6, 4, generator=torch.Generator().manual_seed(seed))


def _distance(a: torch.Tensor, b: torch.Tensor, anchor: torch.Tensor) -> float:
    rms = float(anchor.pow(2).mean().sqrt())
    return float(torch.stack([((x - y) / rms).norm() for x, y in zip(a[0], b[0])]).mean())


def test_hierarchy_loss_is_equation_4() -> None:
    anchor, positive, tem, sem = (_features(i) for i in range(4))
    config = HvqConfig(margin="constant", sem_weight=0.5)
    expected = max(0.0, _distance(anchor, positive, anchor) - _distance(anchor, tem, anchor) + 1)
    expected += 0.5 * max(0.0, _distance(anchor, positive, anchor) - _distance(anchor, sem, anchor) + 1)
    loss = hierarchy_loss(anchor, positive, (tem, tem), (sem, sem), -1, config)
    assert float(loss) == pytest.approx(expected, rel=1e-5)
    assert float(total_loss(loss, torch.tensor(2.0), config)) == pytest.approx(expected + 0.4 * 2, rel=1e-5)


def test_the_perfect_quantizer_has_no_loss_and_no_gradient_with_the_relative_margin() -> None:
    anchor, past = _features(0), _features(0) + 0.05 * _features(1)
    for margin, is_spared in (("teacher", True), ("constant", False)):
        perfect, perfect_past = anchor.clone().requires_grad_(True), past.clone().requires_grad_(True)
        loss = triplet(anchor, perfect, perfect_past, past, -1, HvqConfig(margin=margin))
        assert (float(loss.detach()) == 0.0) is is_spared
        loss.backward()
        assert perfect_past.grad is not None
        assert (float(perfect_past.grad.abs().sum()) == 0.0) is is_spared


def test_channels_can_come_first() -> None:
    anchor, positive, negative = (_features(i) for i in range(3))
    last = triplet(anchor, positive, negative, negative, -1, HvqConfig())
    first = triplet(*(x.transpose(1, 2) for x in (anchor, positive, negative, negative)), 1, HvqConfig())
    assert torch.allclose(first, last)


@given(frames=st.integers(2, 40), seed=st.integers(0, 10_000))
def test_frames_are_drawn_from_their_windows(frames: int, seed: int) -> None:
    config = HvqConfig()
    triple = sample_triple(frames, config, torch.Generator().manual_seed(seed))
    assert 1 <= triple.t < frames
    assert triple.temporal is not None
    assert max(0, triple.t - 6) <= triple.temporal <= triple.t - 1
    if triple.semantic is not None:
        in_window = triple.t - 15 <= triple.semantic <= triple.t - 7
        assert in_window or (triple.t < 7 and triple.semantic == 0)
        assert triple.semantic != triple.temporal


def test_a_single_frame_has_no_past() -> None:
    triple = sample_triple(1, HvqConfig(), torch.Generator())
    assert (triple.t, triple.temporal, triple.semantic) == (0, None, None)
