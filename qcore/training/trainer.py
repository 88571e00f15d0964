"""The loop: batches in, weights out. Resumable, deterministic for a seed, on one or several ranks.

Step n of a training always sees the same batch, whatever was interrupted before and however many workers
make the clips.
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.distributed as dist
from sam2.modeling.sam2_base import SAM2Base
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from qcore.models.embedded import EmbeddedArch
from qcore.training.errors import TrainingError
from qcore.training.losses import LossConfig
from qcore.training.pack import TrainingPack
from qcore.training.recipes import BatchShape, Recipe
from qcore.training.step import ClipBatch, ClipRunner, collate
from qcore.training.synthesis import ClipGenerator

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Budget:
    """How long a training is. Exactly one of steps and minutes is given."""

    steps: int | None = None
    minutes: float | None = None
    """Of computing, over all its parts; the same seed then gives the same model only at the same speed."""

    def progress(self, step: int, seconds: float) -> float:
        """Share that is done, 0..1."""
        if self.steps is not None:
            return min(1.0, step / self.steps)
        assert self.minutes is not None
        return min(1.0, seconds / (60 * self.minutes))


@dataclass(frozen=True, slots=True)
class RunConfig:
    """Where and how a training runs."""

    out: Path
    """Folder of its checkpoints."""
    budget: Budget
    seed: int = 0
    device: str = "cpu"
    workers: int = 0
    """Processes that make clips; 0 = in the training process."""
    half_precision: bool = False
    rank: int = 0
    ranks: int = 1
    checkpoint_minutes: float = 5.0
    stop_after_minutes: float | None = None
    """Stop this part here, with a checkpoint to go on from; None = go on to the end."""
    keep_every: int = 3
    """Every n-th checkpoint is kept under its own name, for choosing among them; 0 = none."""


class ClipDataset(Dataset[tuple[ClipBatch, BatchShape]]):
    """Batches by step and shape; every step has its own random numbers."""

    def __init__(self, pack: TrainingPack, recipe: Recipe, config: RunConfig) -> None:
        self._generator = ClipGenerator(pack, recipe.synthesis, config.seed)
        self._recipe, self._config = recipe, config

    def __getitem__(self, key: tuple[int, BatchShape]) -> tuple[ClipBatch, BatchShape]:
        return self.make(*key), key[1]

    def shape(self, step: int, progress: float) -> BatchShape:
        """What the batch of a step looks like: the same on every rank, so that none waits for another."""
        batches = self._recipe.phase_at(progress).batches
        weights = np.array([weight for weight, _ in batches])
        rng = np.random.default_rng([self._config.seed, step])
        return batches[int(rng.choice(len(batches), p=weights / weights.sum()))][1]

    def make(self, step: int, shape: BatchShape) -> ClipBatch:
        """The batch of a step."""
        cv2.setNumThreads(1)
        self._generator.rng = np.random.default_rng([self._config.seed, step, self._config.rank, 1])
        return collate([self._generator.clip(shape.length, shape.objects) for _ in range(shape.clips)])


class Trainer:
    """A training run.

    Args:
        model: what is trained, in train mode, on the CPU.
        arch: its dimensions.
        recipe: what is done.
        pack: the material.
        config: where and for how long.
    """

    def __init__(
        self, model: SAM2Base, arch: EmbeddedArch, recipe: Recipe, pack: TrainingPack, config: RunConfig
    ) -> None:
        if (config.budget.steps is None) == (config.budget.minutes is None):
            raise TrainingError("Give the training's length either in steps or in minutes.")
        self.device = torch.device(config.device)
        self.model = model.to(self.device)
        self.arch, self.recipe, self.config = arch, recipe, config
        self.data = ClipDataset(pack, recipe, config)
        self.runner = ClipRunner(self.model, self.device, config.half_precision)
        self.average = {name: value.detach().clone() for name, value in self.model.state_dict().items()}
        self.step, self.seconds = 0, 0.0
        self._freeze(3)
        self._parameters = [p for p in self.model.parameters() if p.requires_grad]
        # one flat gradient for all parameters: its norm and its exchange between ranks are one operation
        self._gradient = torch.zeros(sum(p.numel() for p in self._parameters), device=self.device)
        self._attach_gradients()
        self.optimizer = self._make_optimizer()
        self._checkpoints = 0

    def run(self) -> bool:
        """Train; True when the training is complete, False when it stopped to be resumed."""
        config = self.config
        started = last = last_saved = time.monotonic()
        report = _Report()
        batches = self._batches()
        if self.device.type == "cuda":
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
        while (progress := self._progress()) < 1.0:
            batch, shape = next(batches)
            result = self._train_step(batch, shape, progress)
            report.add(result)
            self.step += 1
            now = self._agree(time.monotonic())
            self.seconds += now - last
            last = now
            if config.rank == 0 and report.is_due(now):
                log.info("step %d, %.1f %%, %s", self.step, 100 * progress, report.text())
            if now - last_saved > 60 * config.checkpoint_minutes:
                last_saved = now
                self.save()
            if config.stop_after_minutes is not None and now - started > 60 * config.stop_after_minutes:
                self.save()
                return self._progress() >= 1.0
        self.save()
        return True

    def save(self) -> None:
        """Write ``last.pt``, and every so often a copy that stays; never leaves half a file."""
        if self.config.rank != 0:
            return
        self.config.out.mkdir(parents=True, exist_ok=True)
        state = {
            "model": self.model.state_dict(),
            "average": self.average,
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
            "seed": self.config.seed,
            "arch": self.arch.to_json(),
        }
        self._checkpoints += 1
        if self.config.keep_every and self._checkpoints % self.config.keep_every == 0:
            kept = {
                "average": self.average,
                "step": self.step,
                "seconds": self.seconds,
                "arch": self.arch.to_json(),
            }
            torch.save(kept, self.config.out / f"step-{self.step:06d}.pt")
        unfinished = self.config.out / "last.pt.part"
        torch.save(state, unfinished)
        unfinished.replace(self.config.out / "last.pt")

    def resume(self) -> bool:
        """Go on from ``last.pt``; False when there is none."""
        path = self.config.out / "last.pt"
        if not path.is_file():
            return False
        state: dict[str, Any] = torch.load(path, map_location=self.device, weights_only=True)
        if state["seed"] != self.config.seed or EmbeddedArch.from_json(state["arch"]) != self.arch:
            raise TrainingError(f"{path} belongs to another training: choose another folder.")
        self.model.load_state_dict(state["model"])
        self.average = state["average"]
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.seconds = state["step"], state["seconds"]
        return True

    def _train_step(self, batch: ClipBatch, shape: BatchShape, progress: float) -> dict[str, float]:
        recipe = self.recipe
        self._freeze(shape.frozen_blocks)
        rate = self._learning_rate(progress)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["factor"]
        loss = LossConfig(
            recipe.balance_at(progress), recipe.loss.boundary, recipe.loss.iou, recipe.loss.presence
        )
        rng = np.random.default_rng([self.config.seed, self.step, self.config.rank, 2])
        self._gradient.zero_()
        result = self.runner(batch, recipe.prompts, loss, rng)
        result.loss.backward()
        if self.config.ranks > 1:
            dist.all_reduce(self._gradient)
            self._gradient /= self.config.ranks
        norm = float(self._gradient.norm())
        if not math.isfinite(norm):
            log.warning("step %d: the gradient is not finite, step left out", self.step)
            return {}
        if norm > recipe.gradient_limit:
            self._gradient *= recipe.gradient_limit / norm
        self.optimizer.step()
        self._update_average()
        return {"loss": float(result.loss.detach()), **result.iou}

    def _update_average(self) -> None:
        # short at first, so that the start is soon forgotten
        decay = min(self.recipe.average, (1 + self.step) / (20 + self.step))
        state = self.model.state_dict()
        with torch.no_grad():
            names = [name for name in self.average if self.average[name].is_floating_point()]
            torch._foreach_lerp_([self.average[n] for n in names], [state[n] for n in names], 1 - decay)

    def _learning_rate(self, progress: float) -> float:
        warm = min(1.0, (self.step + 1) / max(1, self.recipe.warmup_steps))
        return self.recipe.learning_rate * warm * (0.475 * (1 + math.cos(math.pi * progress)) + 0.05)

    def _progress(self) -> float:
        return self.config.budget.progress(self.step, self.seconds)

    def _agree(self, now: float) -> float:
        """The first rank's clock: ranks must take the same decisions."""
        if self.config.ranks == 1 or (
            self.config.budget.minutes is None and not self.config.stop_after_minutes
        ):
            return now
        clock = torch.tensor([now], dtype=torch.float64)
        dist.broadcast(clock, 0)
        return float(clock)

    def _batches(self) -> Iterator[tuple[ClipBatch, BatchShape]]:
        if self.config.workers == 0:
            yield from (self.data[key] for key in self._keys())
            return
        # the loader asks for keys a little ahead: with a budget of minutes, phases change that much later
        yield from DataLoader(
            self.data,
            batch_size=None,
            sampler=self._keys(),
            num_workers=self.config.workers,
            prefetch_factor=2,
            pin_memory=self.device.type == "cuda",
        )

    def _keys(self) -> Iterator[tuple[int, BatchShape]]:
        step = self.step
        while True:
            yield step, self.data.shape(step, self.config.budget.progress(step, self.seconds))
            step += 1

    def _freeze(self, blocks: int) -> None:
        """Leave the stem and the first blocks of the trunk as they are (0: train all of it)."""
        trunk = self.model.image_encoder.trunk
        trunk.stem.requires_grad_(blocks == 0)
        for index, block in enumerate(trunk.blocks):
            block.requires_grad_(index >= blocks)

    def _attach_gradients(self) -> None:
        start = 0
        for parameter in self._parameters:
            end = start + parameter.numel()
            parameter.grad = self._gradient[start:end].view_as(parameter)
            start = end

    def _make_optimizer(self) -> torch.optim.AdamW:
        trunk, plain, decayed = [], [], []
        for name, parameter in self.model.named_parameters():
            if not parameter.requires_grad:
                continue
            if "trunk" in name:
                trunk.append(parameter)
            elif parameter.ndim < 2 or any(word in name for word in ("embed", "token", "tpos")):
                plain.append(parameter)
            else:
                decayed.append(parameter)
        decay, factor = self.recipe.weight_decay, self.recipe.trunk_factor
        groups: list[dict[str, Any]] = [
            {"params": trunk, "factor": factor, "weight_decay": decay / 2},
            {"params": plain, "factor": 1.0, "weight_decay": 0.0},
            {"params": decayed, "factor": 1.0, "weight_decay": decay},
        ]
        return torch.optim.AdamW(groups, lr=self.recipe.learning_rate, betas=(0.9, 0.98), fused=True)


def start_ranks(config: RunConfig, port: int) -> None:
    """Join the other ranks of this machine; nothing to do for a single one."""
    if config.ranks > 1:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        address = f"tcp://127.0.0.1:{port}"
        dist.init_process_group("gloo", init_method=address, rank=config.rank, world_size=config.ranks)


def averaged_weights(path: Path) -> tuple[dict[str, Tensor], EmbeddedArch, int, float]:
    """The result in a checkpoint: averaged weights, architecture, steps, seconds."""
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        return state["average"], EmbeddedArch.from_json(state["arch"]), state["step"], state["seconds"]
    except (OSError, KeyError, RuntimeError) as error:
        raise TrainingError(f"{path} is not a checkpoint of this program.") from error


class _Report:
    """Means of what happened since the last line of the log."""

    def __init__(self, every_s: float = 60.0) -> None:
        self.every_s = every_s
        self._since = time.monotonic()
        self._steps = 0
        self._values: dict[str, list[float]] = {}

    def add(self, values: dict[str, float]) -> None:
        self._steps += 1
        for name, value in values.items():
            self._values.setdefault(name, []).append(value)

    def is_due(self, now: float) -> bool:
        return now - self._since > self.every_s

    def text(self) -> str:
        seconds = (time.monotonic() - self._since) / max(1, self._steps)
        parts = [f"{name} {np.mean(values):.3f}" for name, values in sorted(self._values.items())]
        self._since, self._steps, self._values = time.monotonic(), 0, {}
        return f"{seconds:.2f} s/step, " + ", ".join(parts)
