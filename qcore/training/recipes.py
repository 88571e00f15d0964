"""What is trained for how long: phases of batches, learning rates, and the ready-made recipes."""

from __future__ import annotations

from dataclasses import dataclass, field

from qcore.training.losses import LossConfig
from qcore.training.step import PromptMix
from qcore.training.synthesis import SynthesisConfig


@dataclass(frozen=True, slots=True)
class BatchShape:
    """One kind of batch, for one rank."""

    clips: int
    length: int
    """Frames a clip; 1 trains on single pictures, without memory."""
    objects: int
    """Most targets a clip."""
    frozen_blocks: int = 3
    """Trunk blocks from the input on that get no gradient, besides the stem; 99 = all."""


@dataclass(frozen=True, slots=True)
class Phase:
    """A stretch of the training."""

    until: float
    """Share of the whole training at which it ends, 0..1."""
    batches: tuple[tuple[float, BatchShape], ...]
    """Weight and shape: each step draws one."""
    balance: float = 0.0
    """See `LossConfig.balance`, at the phase's start; it falls to 0 over the phase."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """A whole training but its length, material and start."""

    phases: tuple[Phase, ...]
    image_size: int = 384
    learning_rate: float = 4e-4
    """Its highest; it falls along a cosine to 5 % of that."""
    trunk_factor: float = 0.3
    """Of the learning rate, for the pretrained trunk."""
    warmup_steps: int = 100
    average: float = 0.998
    """Decay of the running average of the weights: the average is the result."""
    weight_decay: float = 0.02
    gradient_limit: float = 1.0
    prompts: PromptMix = field(default_factory=PromptMix)
    loss: LossConfig = field(default_factory=LossConfig)
    synthesis: SynthesisConfig = field(default_factory=SynthesisConfig)

    def phase_at(self, progress: float) -> Phase:
        """The phase that a share of the training, 0..1, lies in."""
        return next((phase for phase in self.phases if progress < phase.until), self.phases[-1])

    def balance_at(self, progress: float) -> float:
        """Balanced cross-entropy's share at that point."""
        start = 0.0
        for phase in self.phases:
            if progress < phase.until:
                return phase.balance * (1 - (progress - start) / max(1e-9, phase.until - start))
            start = phase.until
        return 0.0


RECIPES: dict[str, Recipe] = {
    # From random weights but the trunk's, two ranks of one CPU thread.
    "cpu-scratch": Recipe(
        phases=(
            Phase(0.3, ((1.0, BatchShape(4, 1, 3)),), balance=1.0),
            Phase(0.85, ((0.25, BatchShape(4, 1, 3)), (0.75, BatchShape(1, 5, 2, 5)))),
            Phase(1.0, ((1.0, BatchShape(1, 8, 2, 99)),)),
        ),
        image_size=256,
        learning_rate=8e-4,
        trunk_factor=0.15,
        synthesis=SynthesisConfig(size=256),
    ),
    # From a trained model, two ranks of one CPU thread.
    "cpu-refine": Recipe(
        phases=(
            Phase(0.8, ((0.5, BatchShape(4, 1, 3)), (0.5, BatchShape(1, 5, 2, 5)))),
            Phase(1.0, ((0.3, BatchShape(4, 1, 3)), (0.7, BatchShape(1, 7, 2, 99)))),
        ),
    ),
    # From random weights but the trunk's, one data-centre GPU and 12 or more loader workers.
    "gpu-scratch": Recipe(
        phases=(
            Phase(0.2, ((1.0, BatchShape(64, 1, 3, 0)),), balance=1.0),
            Phase(0.85, ((0.3, BatchShape(64, 1, 3, 0)), (0.7, BatchShape(16, 5, 3, 0)))),
            Phase(1.0, ((0.2, BatchShape(64, 1, 3, 0)), (0.8, BatchShape(10, 8, 3, 0)))),
        ),
        learning_rate=8e-4,
        trunk_factor=0.25,
        warmup_steps=500,
        average=0.999,
    ),
    # From a trained model, one data-centre GPU.
    "gpu-refine": Recipe(
        phases=(
            Phase(0.7, ((0.3, BatchShape(128, 1, 3, 0)), (0.7, BatchShape(52, 6, 3, 0)))),
            Phase(1.0, ((0.2, BatchShape(128, 1, 3, 0)), (0.8, BatchShape(34, 9, 3, 0)))),
        ),
        learning_rate=5e-4,
        warmup_steps=100,
        synthesis=SynthesisConfig(real_share=0.35, exit_share=0.2),
    ),
}
"""Ready-made recipes by name."""
