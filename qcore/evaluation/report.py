"""The result of an evaluation, as JSON for programs and as a Markdown table for people."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from qcore.evaluation.scoring import Identity, SequenceScore, mean_identity


@dataclass(frozen=True)
class EvaluationReport:
    """Scores of one model on one benchmark. Properties are in percent, as the benchmarks print them."""

    model: str
    dataset: str
    prompt: str
    sequences: tuple[SequenceScore, ...]
    peak_rss_mb: float
    """Largest memory of the process so far, in MiB."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """What else the figures depend on: input size, device, threads, Mutual-KV, ..."""
    average_precision: Mapping[str, float] | None = None
    """COCO's mask AP figures in percent; only for image benchmarks."""

    @property
    def j(self) -> float:
        """Mean J over all objects (not sequences), in percent."""
        return 100 * float(np.mean([score.j for s in self.sequences for score in s.objects]))

    @property
    def f(self) -> float:
        """Mean F over all objects, in percent."""
        return 100 * float(np.mean([score.f for s in self.sequences for score in s.objects]))

    @property
    def jf(self) -> float:
        """J&F: the mean of both, in percent."""
        return (self.j + self.f) / 2

    @property
    def j_prompt_frame(self) -> float:
        """Mean J of the masks that the prompts themselves gave, in percent."""
        return 100 * float(np.mean([score.j_prompt_frame for s in self.sequences for score in s.objects]))

    @property
    def identity(self) -> Identity | None:
        """Mean over the objects of sequences with several; None where there is none."""
        return mean_identity([score.identity for s in self.sequences for score in s.objects])

    @property
    def fps(self) -> float:
        """Frames a second over everything: wall time of prompts and propagation, video decoding included."""
        seconds = sum(s.seconds for s in self.sequences)
        return sum(s.tracked_frames for s in self.sequences) / seconds if seconds > 0 else 0.0

    def to_json(self) -> dict[str, Any]:
        """Plain data for ``json.dumps``; J, F, JF and J0 (on the prompted frame) in percent."""
        return {
            "model": self.model,
            "dataset": self.dataset,
            "prompt": self.prompt,
            "J": _two(self.j),
            "F": _two(self.f),
            "JF": _two(self.jf),
            "J0": _two(self.j_prompt_frame),
            **(
                {"AP": {k: _two(v) for k, v in self.average_precision.items()}}
                if self.average_precision
                else {}
            ),
            **_identity_json(self.identity),
            "sequences": {s.name: _sequence_json(s) for s in self.sequences},
            "objects": sum(len(s.objects) for s in self.sequences),
            "fps": _two(self.fps),
            "peak_rss_mb": round(self.peak_rss_mb, 1),
            "settings": dict(self.settings),
        }

    def to_markdown(self) -> str:
        """A table with a row a sequence and the mean over objects."""
        unit = "image" if self.average_precision is not None else "sequence"
        lines = [
            f"{self.model} on {self.dataset}, prompt: {self.prompt}",
            "",
            f"| {unit} | objects | frames | J | F | J&F | J on the prompted frame | fps |",
            "|---|---|---|---|---|---|---|---|",
        ]
        lines += [
            f"| {s.name} | {len(s.objects)} | {s.frames} | {100 * s.j:.1f} | {100 * s.f:.1f} "
            f"| {50 * (s.j + s.f):.1f} | {100 * s.j_prompt_frame:.1f} | {s.fps:.2f} |"
            for s in self.sequences
        ]
        lines.append(
            f"| **mean over objects** | {sum(len(s.objects) for s in self.sequences)} "
            f"| {sum(s.frames for s in self.sequences)} | **{self.j:.1f}** | **{self.f:.1f}** "
            f"| **{self.jf:.1f}** | {self.j_prompt_frame:.1f} | {self.fps:.2f} |"
        )
        if self.average_precision is not None:
            figures = ", ".join(f"{name} {value:.1f}" for name, value in self.average_precision.items())
            lines += ["", f"Mask AP: {figures}."]
        if self.identity is not None:
            lines += [
                "",
                f"Identity: IoU with the own target {self.identity.own_iou:.3f}, with the others "
                f"{self.identity.other_iou:.3f}; own larger in {100 * self.identity.own_larger:.1f} % "
                "of the frames.",
            ]
        lines += ["", f"Peak memory of the process: {self.peak_rss_mb:.0f} MiB."]
        return "\n".join(lines) + "\n"


def _two(value: float) -> float:
    return round(value, 2)


def _identity_json(identity: Identity | None) -> dict[str, Any]:
    if identity is None:
        return {}
    return {
        "identity": {
            "own_iou": round(identity.own_iou, 4),
            "other_iou": round(identity.other_iou, 4),
            "own_larger": round(identity.own_larger, 4),
        }
    }


def _sequence_json(score: SequenceScore) -> dict[str, Any]:
    return {
        "J": _two(100 * score.j),
        "F": _two(100 * score.f),
        "JF": _two(50 * (score.j + score.f)),
        "J0": _two(100 * score.j_prompt_frame),
        "frames": score.frames,
        "objects": len(score.objects),
        "fps": _two(score.fps),
        **_identity_json(mean_identity([o.identity for o in score.objects])),
    }
