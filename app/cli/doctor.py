"""`qminisam2 doctor`: what this installation is made of, what it runs on, what it lacks and how to get it."""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import os
import platform
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import platformdirs

from app.cli.console import Console
from app.cli.tracking import choose_device
from app.system_libraries import install_command, missing_libraries
from qcore import __version__
from qcore.models.registry import model_statuses, models_dir

# distribution, module to import, True where the program does not work without it
_PACKAGES = (
    ("torch", "torch", True),
    ("sam2", "sam2", True),
    ("numpy", "numpy", True),
    ("opencv-python-headless", "cv2", True),
    ("av", "av", True),
    ("pycocotools", "pycocotools", True),
    ("safetensors", "safetensors", True),
    ("pillow", "PIL", True),
    ("platformdirs", "platformdirs", True),
    ("tqdm", "tqdm", True),
    ("psutil", "psutil", True),
    ("PySide6-Essentials", "PySide6", False),
    ("QtAwesome", "qtawesome", False),
)


@dataclass(slots=True)
class Findings:
    """Sections of (name, value) lines, and what is missing."""

    sections: dict[str, dict[str, str]] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    """One sentence each, with the way to get it."""
    is_broken: bool = False
    """True when something is missing that every command needs."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the verb."""
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(args: argparse.Namespace, console: Console) -> int:
    """Examine and print; exit code 1 when something is missing that every command needs."""
    findings = Findings()
    findings.sections["Program"] = {
        "version": __version__,
        "python": f"{platform.python_version()} ({sys.executable})",
        "system": platform.platform(),
    }
    findings.sections["Packages"] = _packages(findings)
    if not findings.is_broken:
        findings.sections["Devices"] = _devices()
        findings.sections["Kernels"] = _kernels()
        findings.sections["Kernel choices"] = _kernel_choices()
    findings.sections["Models"] = {
        row.id: f"{row.precision}, {'installed' if row.installed else 'not installed'}"
        for row in model_statuses()
    }
    findings.sections["Folders"] = _folders()
    libraries = missing_libraries()
    if libraries:
        findings.missing.append(
            f"The window needs system libraries ({', '.join(libraries)}): {install_command(libraries)}"
        )
    _print(findings, console)
    return 1 if findings.is_broken else 0


def _print(findings: Findings, console: Console) -> None:
    sections: dict[str, Any] = {name.lower(): lines for name, lines in findings.sections.items()}
    console.result({**sections, "missing": findings.missing, "ok": not findings.is_broken})
    for title, lines in findings.sections.items():
        console.line(title)
        width = max((len(name) for name in lines), default=0)
        for name, value in lines.items():
            console.line(f"  {name:<{width}}  {value}")
    console.line("Missing" if findings.missing else "Nothing is missing.")
    for sentence in findings.missing:
        console.line(f"  {sentence}")


def _packages(findings: Findings) -> dict[str, str]:
    versions: dict[str, str] = {}
    for distribution, module, is_needed in _PACKAGES:
        try:
            importlib.import_module(module)
            versions[distribution] = importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            versions[distribution] = "present, version unknown"
        except (ImportError, OSError, RuntimeError) as error:
            versions[distribution] = f"missing ({error})"
            findings.missing.append(f"The package {distribution} does not import: pip install {distribution}")
            findings.is_broken |= is_needed
    return versions


def _devices() -> dict[str, str]:
    import torch

    devices = {"cpu": f"{_processor()}, {os.cpu_count()} threads, torch uses {torch.get_num_threads()}"}
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        devices[f"cuda:{index}"] = f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"
    if torch.backends.mps.is_available():
        devices["mps"] = "Apple GPU"
    devices["auto"] = f"would use {choose_device('auto')}"
    return devices


def _processor() -> str:
    from qcore.runtime.probe import processor_name

    return processor_name()


def _kernels() -> dict[str, str]:
    from qcore.runtime import cpu_kernels
    from qcore.runtime.probe import cache_file

    probe = cpu_kernels()
    integers = "none" if probe.integer_ms is None else f"{probe.integer_ms:.2f} ms"
    return {
        "cpu arithmetic": probe.summary,
        "float32 product": f"{probe.float32_ms:.2f} ms",
        "bfloat16 product": f"{probe.bfloat16_ms:.2f} ms",
        "8-bit integer product": integers,
        "exact in integers": "all bit widths up to 8" if probe.full_bytes else "up to 7 bits, or 8 by 6",
        "attention": ", ".join(f"{kind} {probe.attention_way(kind)}" for kind in probe.attention_ms),
        "packed linear": "yes" if probe.packed_linear else "no",
        "packed convolution": "yes" if probe.packed_convolution else "no",
        "measured once, kept in": str(cache_file()),
    }


def _kernel_choices() -> dict[str, str]:
    """Every kind and shape of work that was measured here, its fastest kernel first."""
    from qcore.runtime.probe import remembered_choices

    lines = {
        case: "; ".join(f"{way} {ms:.3f} ms" for way, ms in sorted(times.items(), key=lambda item: item[1]))
        for case, times in remembered_choices().items()
    }
    return lines or {"none yet": "measured when a model first needs them"}


def _folders() -> dict[str, str]:
    folders = {
        "models": models_dir(),
        "settings": Path(platformdirs.user_config_dir("qminisam2", False)),
        "caches": Path(platformdirs.user_cache_dir("qminisam2", False)),
        "projects": platformdirs.user_data_path("qminisam2", False) / "projects",
    }
    lines = {name: str(path) for name, path in folders.items()}
    place = next((p for p in [models_dir(), *models_dir().parents] if p.exists()), Path.cwd())
    lines["free there"] = f"{shutil.disk_usage(place).free / 1e9:.1f} GB"
    return lines
