"""What to do, as data: frozen records that name bit widths, observers, reconstruction and the video terms.

A method (``qcore.quant.methods``) is a function that returns one `QuantConfig`; the engine runs any of them.
Published defaults and our resolution of each ambiguity are noted beside the fields.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass, field
from typing import Any

from qcore.quant.affine import MAX_BITS, MIN_BITS, QuantizationError

CONFIG_VERSION = 1


@dataclass(frozen=True, slots=True)
class WeightSpec:
    """Weights: one scale and zero point per output channel."""

    bits: int
    observer: str = "minmax"
    symmetric: bool = False

    def is_symmetric(self, bits: int) -> bool:
        """Whether weights of so many bits have their zero point in the middle: those of 8 always do.

        Their codes then fit a signed byte, so that integer kernels take them as they are. With 256 levels the
        unused end of a lopsided channel costs next to nothing.
        """
        return self.symmetric or bits == MAX_BITS


@dataclass(frozen=True, slots=True)
class ActivationSpec:
    """Activations entering a layer or an attention product: one scale and zero point per tensor."""

    bits: int
    observer: str = "average_minmax"
    symmetric: bool = False
    depthwise_per_channel: bool = False
    """One scale per channel into depthwise convolutions: each output channel reads one input channel, so the
    scale folds into the weight's and costs nothing at run time."""
    value_per_channel: bool = False
    """One scale per channel of V: it factors out of P V, so it costs one multiplication an output."""


@dataclass(frozen=True, slots=True)
class SoftmaxSpec:
    """Attention probabilities: ``affine`` or base-2 ``log2`` codes."""

    bits: int
    kind: str = "affine"
    observer: str = "minmax"
    taus: tuple[int, ...] = (1,)
    """Granularities tried per layer; a code step is 2^(-1/tau)."""
    row_scale: bool = False
    """log2: scale by each row's largest probability instead of one calibrated scale."""


@dataclass(frozen=True, slots=True)
class ReconstructionConfig:
    """How the units of the model are fitted to their full-precision originals, one after the other."""

    unit: str = "subblock"
    """``layer``, ``subblock`` (one attention, one MLP, one convolution block) or ``block``."""
    iterations: int = 2000
    phases: str = "joint"
    """``weights`` (AdaRound), ``weights_then_activations`` (BRECQ) or ``joint`` (QDrop and later)."""
    p_fp: float = 0.5
    """Probability that an element stays unquantized while a unit is fitted (QDrop); always 0 afterwards."""
    batch_size: int = 2
    rounding_lr: float | None = None
    """Adam step for V; None: 1e-3 at 20 000 iterations, larger for fewer so that V can still cross zero."""
    step_lr: float = 2e-3
    """Adam step for activation scales, relative to the scale, cosine to 0."""
    round_weight: float = 0.01
    """alpha of Eq. 2 times the 0.01 of AdaRound's code."""
    beta_range: tuple[float, float] = (20.0, 2.0)
    warmup: float = 0.2
    loss_power: float = 2.0
    compensate: bool = False
    """Start from compensated rounding (`qcore.quant.compensation`) in place of nearest rounding."""
    learn_bias: bool = False
    """Fit biases too: they stay in floating point, so correcting them is free."""
    normalise: bool = True
    """Divide outputs by the original's rms, so one ``round_weight`` fits all units."""


@dataclass(frozen=True, slots=True)
class HvqConfig:
    """Hierarchy-based Video Quantization, Eqs. 4 and 5."""

    sem_weight: float = 0.5
    """beta of Eq. 4."""
    rec_weight: float = 0.4
    """gamma of Eq. 5."""
    short_frames: int = 7
    """l_short: the temporal frame lies in [t - 6, t - 1] of the recorded frames."""
    long_frames: int = 16
    """l_long: the semantic frame lies in [t - 15, t - 7]."""
    margin: str = "teacher"
    """``teacher``: min(1, kappa * distance of the originals), so the perfect quantizer has no loss;
    ``constant``: the plain margin of 1, which pushes even a perfect quantizer away from its target."""
    kappa: float = 0.9


@dataclass(frozen=True, slots=True)
class MutualKvConfig:
    """Mutual-KV in the reconstruction loop and in the bundle."""

    epsilon: float | None = None
    """Similarity above which memory frames share keys and values; None: found by ``target_groups``."""
    target_groups: float = 0.75
    """Mean share of groups per memory frame on the calibration clips to aim at (5 of 7)."""
    log_bias: bool = True
    """Weight a merged key by its number of frames."""


@dataclass(frozen=True, slots=True)
class Override:
    """Other bit widths for the layers whose names match ``pattern`` (a glob). None keeps full precision."""

    pattern: str
    weight_bits: int | None
    activation_bits: int | None


@dataclass(frozen=True, slots=True)
class QuantConfig:
    """One complete recipe."""

    method: str
    weights: WeightSpec
    activations: ActivationSpec
    softmax: SoftmaxSpec
    reconstruction: ReconstructionConfig | None = None
    hvq: HvqConfig | None = None
    mutual_kv: MutualKvConfig | None = None
    exempt_bits: int | None = 8
    """First and last layers: None leaves them in floating point as the paper does."""
    optional_bits: int | None = 8
    """Memory encoder, prompt encoder and pointer projections: None leaves them in floating point."""
    optional_weight_bits: int | None = None
    """Other bits for the weights of those; None: ``optional_bits``."""
    include: tuple[str, ...] = ("*",)
    exclude: tuple[str, ...] = ()
    overrides: tuple[Override, ...] = ()
    bimodal_integration: bool = False
    """PTQ4SAM's sign folding of two-peaked keys."""
    centre_values: bool = False
    """Move V's mean through the softmax into the output bias (exact)."""
    seed: int = 0

    def with_seed(self, seed: int) -> QuantConfig:
        """The same recipe, other random choices."""
        return dataclasses.replace(self, seed=seed)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form with a version."""
        return {"version": CONFIG_VERSION, **dataclasses.asdict(self)}

    @property
    def bits_name(self) -> str:
        """E.g. ``w4a4``; ``auto`` overrides are named by the caller."""
        return f"w{self.weights.bits}a{self.activations.bits}"


@dataclass(frozen=True, slots=True)
class Bits:
    """Weight and activation widths as written on the command line."""

    weights: int
    activations: int
    name: str = field(default="", compare=False)

    @classmethod
    def parse(cls, text: str) -> Bits:
        """``w4a4``, ``W6A6``, ``w4a8``...

        Raises:
            QuantizationError: not of that form or out of range.
        """
        match = re.fullmatch(r"w(\d)a(\d)", text.lower())
        if match is None:
            raise QuantizationError(f"Bit widths are written like w4a4 or w6a6, not {text!r}.")
        weights, activations = int(match[1]), int(match[2])
        for bits in (weights, activations):
            if not MIN_BITS <= bits <= MAX_BITS:
                raise QuantizationError(f"Bit widths from {MIN_BITS} to {MAX_BITS} are possible, not {bits}.")
        return cls(weights, activations, text.lower())
