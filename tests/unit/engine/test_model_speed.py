"""Rounds of measuring: other work on the machine must not decide which of two models looks faster."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.engine import model_speed
from app.engine.model_speed import MeasuringError, measure_in_process
from qcore.evaluation.model_speed import ModelSpeed


def speed(encode_ms: float) -> ModelSpeed:
    return ModelSpeed(encode_ms, 10.0, 400.0, "cpu", "fp32", 2)


def test_the_fastest_of_the_rounds_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    rounds = iter([speed(300), speed(200), speed(700)])
    monkeypatch.setattr(model_speed, "measure", lambda *_: next(rounds))
    assert measure_in_process(Path("m"), None, rounds=3) == speed(200)
    assert next(rounds, None) is None


def test_a_measurement_that_fails_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> ModelSpeed:
        raise MeasuringError("no")

    monkeypatch.setattr(model_speed, "measure", fail)
    assert measure_in_process(Path("m"), None, rounds=3) is None
