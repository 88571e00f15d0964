"""Finished units on disk, so that a calibration that was stopped or killed goes on where it was."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from qcore.quant.calibration_data import CalibrationClip, fingerprint
from qcore.quant.config import QuantConfig
from qcore.quant.fake_quantize import ActivationQuantizer, QuantizerState, quantizers
from qcore.quant.reconstruct import UnitReport
from qcore.quant.units import Unit


@dataclass(frozen=True)
class Checkpoints:
    """One folder for one combination of model, data and configuration; without a folder nothing is kept."""

    folder: Path | None

    @classmethod
    def open(
        cls, root: Path | None, model: nn.Module, clips: Sequence[CalibrationClip], config: QuantConfig
    ) -> Checkpoints:
        """The folder below ``root`` whose name is a digest of everything the result depends on."""
        if root is None:
            return cls(None)
        digest = hashlib.sha256(fingerprint(clips).encode())
        digest.update(json.dumps(config.to_dict(), sort_keys=True).encode())
        for name, value in model.state_dict().items():
            digest.update(name.encode())
            digest.update(value.detach().float().cpu().numpy().tobytes())
        folder = root / digest.hexdigest()[:16]
        folder.mkdir(parents=True, exist_ok=True)
        return cls(folder)

    def _path(self, name: str) -> Path | None:
        return None if self.folder is None else self.folder / f"{name}.safetensors"

    def holds(self, name: str) -> bool:
        """Whether the unit was finished earlier and its file is whole."""
        path = self._path(name)
        if path is None or not path.exists():
            return False
        try:
            with safe_open(path, "pt") as file:
                return "report" in (file.metadata() or {})
        except (SafetensorError, OSError):
            return False

    def keep(self, unit: Unit, report: UnitReport) -> None:
        """Write a finished unit: codes, scales, steps and biases."""
        path = self._path(unit.name)
        if path is None:
            return
        tensors: dict[str, torch.Tensor] = {}
        for name, layer in unit.layers():
            assert layer.weight_quantizer.codes is not None
            tensors[f"{name}.codes"] = layer.weight_quantizer.codes.cpu().contiguous()
            tensors[f"{name}.scale"] = layer.weight_quantizer.scale.cpu().contiguous()
            tensors[f"{name}.zero_point"] = layer.weight_quantizer.zero_point.cpu().contiguous()
            tensors[f"{name}.weight"] = layer.weight.detach().cpu().contiguous()
            if layer.bias is not None:
                tensors[f"{name}.bias"] = layer.bias.detach().cpu().contiguous()
        for name, quantizer in quantizers(unit.module):
            if isinstance(quantizer, ActivationQuantizer):
                tensors[f"step:{name}"] = quantizer.scale.detach().cpu().contiguous()
        partial = path.with_suffix(".part")
        save_file(tensors, partial, {"report": json.dumps(dataclasses.asdict(report))})
        partial.replace(path)

    @torch.no_grad()
    def restore(self, unit: Unit) -> UnitReport:
        """Put a finished unit's values back into the model."""
        path = self._path(unit.name)
        assert path is not None
        with safe_open(path, "pt") as file:
            device = next(unit.module.parameters()).device
            for name, layer in unit.layers():
                layer.weight_quantizer.codes = file.get_tensor(f"{name}.codes").to(device)
                layer.weight_quantizer.scale = file.get_tensor(f"{name}.scale").to(device)
                layer.weight_quantizer.zero_point = file.get_tensor(f"{name}.zero_point").to(device)
                layer.weight_quantizer.state = QuantizerState.ON
                layer.weight.copy_(file.get_tensor(f"{name}.weight"))
                if layer.bias is not None:
                    layer.bias.copy_(file.get_tensor(f"{name}.bias"))
            for name, quantizer in quantizers(unit.module):
                if isinstance(quantizer, ActivationQuantizer):
                    quantizer.scale = file.get_tensor(f"step:{name}").to(device)
            report: UnitReport = UnitReport(**json.loads(file.metadata()["report"]))
        return report
