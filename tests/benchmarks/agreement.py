"""Measures how far masks of our kernels agree with those of the model that they stand for.

    python tests/benchmarks/agreement.py MODEL DAVIS_ROOT [--frames N] [--precision auto|fp32|bf16]
                                         [--sequences A,B]

MODEL is an id or the file of a bundle. The reference is the same model on PyTorch's own operations in
float32, with fake quantizers where it is quantized. Every sequence gets a box around its objects in its first
frame and is tracked for N frames; the mean IoU of the two models' masks is printed as JSON, for the prompted
frames and for those after them. ``itself`` is the reference against the reference with every layer's output
disturbed as another order of summation would: what rounding to codes and a memory of one's own masks make of
next to nothing.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from sam2.modeling.sam2_base import SAM2Base
from torch import nn

from qcore.evaluation.datasets import AnnotatedSequence, davis_sequences
from qcore.evaluation.prompts import PromptKind, make_prompt
from qcore.evaluation.trackers import SessionTracker
from qcore.masks import Rle, iou
from qcore.models import load_model
from qcore.runtime import Precision, lower
from qcore.video import open_source

Masks = dict[tuple[int, int], Rle]
NOISE = 1e-7
"""Of the mean size of a layer's output: float32's own."""


def track(model: SAM2Base, sequence: AnnotatedSequence, frames: int) -> Masks:
    """Masks by frame and object."""
    prompts = [
        make_prompt(PromptKind.BOX, sequence.truth(0)[object_id], 0, object_id)
        for object_id in sequence.objects
        if sequence.truth(0)[object_id].any()
    ]
    masks: Masks = {}
    with open_source(sequence.frames) as source:
        for result in SessionTracker(model).track(source, prompts):
            if result.frame_index >= frames:
                break
            masks[result.frame_index, result.object_id] = result.rle
    return masks


def disturb(model: SAM2Base) -> SAM2Base:
    """The model with noise behind every linear layer and convolution."""
    generator = torch.Generator().manual_seed(0)

    def noisy(_module: nn.Module, _inputs: object, out: torch.Tensor) -> torch.Tensor:
        return out + NOISE * out.abs().mean() * torch.randn(out.shape, generator=generator)

    for module in model.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)):
            module.register_forward_hook(noisy)
    return model


def agreement(masks: Masks, reference: Masks) -> dict[str, float]:
    """Mean IoU of prompted and of tracked frames."""

    def mean(keys: Sequence[tuple[int, int]]) -> float:
        return round(statistics.fmean(iou(masks[key], reference[key]) for key in keys), 4)

    return {
        "prompted": mean([key for key in reference if key[0] == 0]),
        "tracked": mean([key for key in reference if key[0] > 0]),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("root", type=Path)
    parser.add_argument("--frames", type=int, default=30)
    parser.add_argument("--precision", type=Precision, default=Precision.AUTO)
    parser.add_argument("--sequences", type=lambda text: text.split(","))
    arguments = parser.parse_args()
    reference, ours = load_model(arguments.model), load_model(arguments.model)
    disturbed = disturb(load_model(arguments.model))
    report = lower(ours, arguments.precision)
    found: dict[str, dict[str, Any]] = {}
    with torch.inference_mode():
        for sequence in davis_sequences(arguments.root, arguments.sequences):
            want = track(reference, sequence, arguments.frames)
            found[sequence.name] = {
                "kernels": agreement(track(ours, sequence, arguments.frames), want),
                "itself": agreement(track(disturbed, sequence, arguments.frames), want),
            }
            print(sequence.name, found[sequence.name], flush=True)
    means = {
        f"{kind}, {part}": round(statistics.fmean(f[kind][part] for f in found.values()), 4)
        for kind in ("kernels", "itself")
        for part in ("prompted", "tracked")
    }
    result = {"model": arguments.model, "runs as": report.summary, "frames": arguments.frames}
    print(json.dumps({**result, "mean IoU": means, "sequences": found}, indent=2))


if __name__ == "__main__":
    main()
