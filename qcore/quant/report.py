"""What a calibration cost and brought, as plain records for the window, HTML and JSON. Free of torch.

`report_measure` fills it, `report_html` prints it. Agreement is J&F between the masks of the full-precision
original and those of the quantized model: it needs no truth, and 1 means the same masks.
"""

from __future__ import annotations

import base64
import dataclasses
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from qcore.masks import Rle, from_coco, to_coco

VERSION = 1
HURTS = 0.2
"""A part of the model is offered for full precision when keeping it exact removes this share of the error."""
PRACTICALLY_EQUAL, NEARLY_EQUAL, VISIBLY_DIFFERENT = 0.97, 0.93, 0.85
"""Agreement from which on the verdict says so."""


@dataclass(frozen=True, slots=True)
class FrameScore:
    """How well the two models agree on one frame; J and F in 0..1."""

    clip: str
    frame_index: int
    j: float
    f: float

    @property
    def jf(self) -> float:
        """J&F."""
        return (self.j + self.f) / 2


@dataclass(frozen=True, slots=True)
class FlipFrame:
    """One frame with both masks, small enough to keep: masks have the picture's size."""

    score: FrameScore
    jpeg: bytes
    full: Rle
    quantized: Rle


@dataclass(frozen=True, slots=True)
class AcceptedScore:
    """Both models against masks that the user accepted; 0..1, mean over ``frames`` frames of one object."""

    name: str
    frames: int
    jf_full: float
    jf_quantized: float


@dataclass(frozen=True, slots=True)
class ModelCost:
    """One model's price on this machine; None where it was not measured."""

    title: str
    precision: str
    size_bytes: int
    frame_ms: float | None = None
    peak_rss_mb: float | None = None


@dataclass(frozen=True, slots=True)
class LayerQuality:
    """Signal to noise of one layer in decibels, larger is better; 6 dB are about one bit."""

    name: str
    weight_bits: int
    activation_bits: int | None
    weight_db: float
    output_db: float


@dataclass(frozen=True, slots=True)
class PartCost:
    """What quantizing one part of the model costs."""

    title: str
    patterns: tuple[str, ...]
    """Globs that name its layers: what ``--exclude`` takes."""
    error_share: float
    """Share of the mask error that goes away when this part alone stays in full precision, at most 1."""
    extra_bytes: int
    """How much larger the model would be."""

    @property
    def hurts(self) -> bool:
        """Whether it is worth an offer."""
        return self.error_share >= HURTS


@dataclass(frozen=True)
class CalibrationReport:
    """Everything the report page, the HTML and the command line show."""

    name: str
    """Of the new model."""
    method: str
    bits: str
    iterations: int
    seed: int
    clips: tuple[tuple[str, int], ...]
    """Name and frames of each clip that was calibrated on."""
    frames: tuple[FrameScore, ...]
    """In order; the frames that the models were compared on."""
    held_out: bool
    """False: there were no other frames, so these are the calibration's own and flatter the result."""
    flips: tuple[FlipFrame, ...]
    """Worst first."""
    accepted: tuple[AcceptedScore, ...]
    before: ModelCost
    after: ModelCost
    layers: tuple[LayerQuality, ...]
    parts: tuple[PartCost, ...]
    losses: tuple[tuple[str, float, float], ...]
    """Unit, its loss with nearest rounding and after fitting."""
    epsilon: float | None
    """Mutual-KV's threshold; None where it is off."""
    jf_mutual_kv: float | None
    """Agreement with Mutual-KV on at that threshold."""
    seconds: float
    machine: dict[str, str] = field(default_factory=dict)

    @property
    def j(self) -> float:
        """Mean J over frames, 0..1."""
        return float(np.mean([score.j for score in self.frames])) if self.frames else float("nan")

    @property
    def f(self) -> float:
        """Mean F over frames, 0..1."""
        return float(np.mean([score.f for score in self.frames])) if self.frames else float("nan")

    @property
    def jf(self) -> float:
        """Agreement: the mean of both."""
        return (self.j + self.f) / 2

    @property
    def accepted_frames(self) -> int:
        """Accepted masks that both models were measured against."""
        return sum(score.frames for score in self.accepted)

    @property
    def accepted_jf(self) -> tuple[float, float] | None:
        """J&F of the original and of the quantized model on the user's masks, each object alike."""
        if not self.accepted:
            return None
        return (
            float(np.mean([score.jf_full for score in self.accepted])),
            float(np.mean([score.jf_quantized for score in self.accepted])),
        )

    @property
    def size_saved(self) -> float:
        """Share of the file size that is saved, below 0 when it grew."""
        return 1 - self.after.size_bytes / self.before.size_bytes

    def verdict(self) -> str:
        """The result in two or three plain sentences."""
        return " ".join(filter(None, (_agreement_sentence(self), _cost_sentence(self), _caveat(self))))

    def to_json(self) -> dict[str, Any]:
        """Plain data for ``json.dumps``."""
        value = dataclasses.asdict(self)
        value["flips"] = [
            {
                "score": dataclasses.asdict(flip.score),
                "jpeg": base64.b64encode(flip.jpeg).decode("ascii"),
                "full": to_coco(flip.full),
                "quantized": to_coco(flip.quantized),
            }
            for flip in self.flips
        ]
        return {
            "version": VERSION,
            "J": round(100 * self.j, 2) if self.frames else None,
            "F": round(100 * self.f, 2) if self.frames else None,
            "JF": round(100 * self.jf, 2) if self.frames else None,
            "verdict": self.verdict(),
            **value,
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> CalibrationReport:
        """Read `to_json`'s data.

        Raises:
            ValueError: it is something else, or of a newer program.
        """
        try:
            if value["version"] != VERSION:
                raise ValueError("the report is of another version of this program")
            names = {entry.name for entry in dataclasses.fields(cls)}
            items = {key: item for key, item in value.items() if key in names}
            items["clips"] = tuple((str(name), int(count)) for name, count in items["clips"])
            items["losses"] = tuple((str(n), float(a), float(b)) for n, a, b in items["losses"])
            items["frames"] = tuple(FrameScore(**entry) for entry in items["frames"])
            items["accepted"] = tuple(AcceptedScore(**entry) for entry in items["accepted"])
            items["layers"] = tuple(LayerQuality(**entry) for entry in items["layers"])
            items["parts"] = tuple(
                PartCost(**{**entry, "patterns": tuple(entry["patterns"])}) for entry in items["parts"]
            )
            items["before"], items["after"] = ModelCost(**items["before"]), ModelCost(**items["after"])
            items["flips"] = tuple(
                FlipFrame(
                    FrameScore(**entry["score"]),
                    base64.b64decode(entry["jpeg"]),
                    from_coco(entry["full"]),
                    from_coco(entry["quantized"]),
                )
                for entry in items["flips"]
            )
            return cls(**items)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError("this is not the report of a calibration") from error


def _agreement_sentence(report: CalibrationReport) -> str:
    if not report.frames:
        return "The two models were not compared."
    jf = 100 * report.jf
    if report.jf >= PRACTICALLY_EQUAL:
        said = "draws practically the same masks as the original"
    elif report.jf >= NEARLY_EQUAL:
        said = "draws nearly the same masks as the original; look at the worst frames below"
    elif report.jf >= VISIBLY_DIFFERENT:
        said = "draws visibly different masks on some frames: expect more corrections"
    else:
        said = "differs a lot from the original: use more bits, more clips or more iterations"
    return f"The quantized model {said} (agreement {jf:.1f} of 100 on {len(report.frames)} frames)."


def _cost_sentence(report: CalibrationReport) -> str:
    before, after = report.before, report.after
    saved = 100 * report.size_saved
    size = f"{abs(saved):.0f} % {'smaller' if saved >= 0 else 'larger'}"
    if before.frame_ms is None or after.frame_ms is None:
        return f"It is {size}."
    ratio = after.frame_ms / before.frame_ms
    if 0.95 <= ratio <= 1.05:
        speed = "as fast on this machine"
    elif ratio < 1:
        speed = f"{100 * (1 - ratio):.0f} % faster a frame on this machine"
    else:
        speed = f"{100 * (ratio - 1):.0f} % slower a frame on this machine"
    return f"It is {size} and {speed}."


def _caveat(report: CalibrationReport) -> str:
    if report.frames and not report.held_out:
        return "No frames were left to check on: this is measured on the calibration's own and flatters it."
    if report.accepted:
        full, quantized = (100 * value for value in report.accepted_jf or (0.0, 0.0))
        return (
            f"Against {report.accepted_frames} masks that you accepted, the original scores {full:.1f} "
            f"and the quantized model {quantized:.1f} J&F."
        )
    return ""
