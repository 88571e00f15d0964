"""Puts a calibration's report together: one implementation for the wizard and ``quantize --report``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from sam2.modeling.sam2_base import SAM2Base

from qcore.evaluation.model_speed import ModelSpeed
from qcore.models.registry import stored_facts
from qcore.quant.clip_selection import ClipPlan, ClipRequest
from qcore.quant.pipeline import QuantizedModel
from qcore.quant.report import CalibrationReport, ModelCost
from qcore.quant.report_measure import (
    checked_clips,
    compare,
    layer_quality,
    load_quantized,
    part_costs,
    reference_of,
    score_accepted,
)

Measure = Callable[[Path], ModelSpeed | None]
"""Times a model file in a process of its own, so that its memory is its own too; None when it cannot."""
Step = Callable[[str, float], None]
_SHARES = {"compare": (0.0, 0.45), "accepted": (0.45, 0.55), "layers": (0.55, 0.6), "parts": (0.6, 0.85)}


def build_report(
    model: SAM2Base,
    result: QuantizedModel,
    base: Path,
    bundle: Path,
    plans: Sequence[ClipPlan],
    requests: Sequence[ClipRequest],
    bits: str,
    measure: Measure = lambda path: None,
    step: Step = lambda what, share: None,
) -> CalibrationReport:
    """Measure everything the report shows.

    Args:
        model: the full-precision original, as loaded.
        result: what `quantize_model` returned for it.
        base: the original's file.
        bundle: the saved result.
        plans: the clips that were calibrated on, with the frames kept for checking.
        requests: with the user's accepted masks, if any.
        bits: as asked for, e.g. ``w6a6`` or ``auto``.
        measure: see `Measure`; called for both files.
        step: told what is measured and the share of all done, 0..1; raise from it to stop.
    """

    def part(what: str, share: float) -> None:
        low, high = _SHARES[what]
        step(what, low + (high - low) * share)

    device = str(next(model.parameters()).device)
    reference, quantized = reference_of(model), load_quantized(bundle, device)
    epsilon = None if result.mutual_kv is None else result.mutual_kv.epsilon
    part("compare", 0.0)
    clips, held_out = checked_clips(reference, plans)
    comparison = compare(reference, quantized, clips, held_out, epsilon, part)
    accepted = score_accepted(reference, quantized, requests, part)
    part("layers", 0.0)
    layers = layer_quality(model, result.model, clips)
    parts = part_costs(model, result.model, clips, part)
    step("speed", 0.85)
    before = _cost(base, "original", measure)
    step("speed", 0.93)
    after = _cost(bundle, "quantized", measure)
    step("speed", 1.0)
    settings = result.config.reconstruction
    return CalibrationReport(
        name=bundle.stem,
        method=result.config.method,
        bits=bits,
        iterations=0 if settings is None else settings.iterations,
        seed=result.config.seed,
        clips=tuple((plan.name, len(plan.indices)) for plan in plans),
        frames=comparison.scores,
        held_out=held_out,
        flips=comparison.flips,
        accepted=tuple(accepted),
        before=before[0],
        after=after[0],
        layers=tuple(layers),
        parts=tuple(parts),
        losses=tuple((unit.name, unit.nearest_loss, unit.learned_loss) for unit in result.units),
        epsilon=epsilon,
        jf_mutual_kv=comparison.jf_mutual_kv,
        seconds=result.wall_s,
        machine=after[1],
    )


def _cost(path: Path, title: str, measure: Measure) -> tuple[ModelCost, dict[str, str]]:
    speed = measure(path)
    precision = _precision(path)
    size = path.stat().st_size
    if speed is None:
        return ModelCost(title, precision, size), {}
    machine = {"device": f"{speed.device} {speed.arithmetic}", "threads": str(speed.threads)}
    return ModelCost(title, precision, size, speed.frame_ms, speed.peak_rss_mb), machine


def _precision(path: Path) -> str:
    """Bits of a bundle, else what weights are stored in."""
    return stored_facts(path).precision if path.suffix == ".safetensors" else "fp32"
