"""Which arithmetic is fastest on this machine: measured once in a moment, remembered per machine."""

from __future__ import annotations

import functools
import json
import logging
import os
import platform
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import platformdirs
import torch
from torch import nn

from qcore.runtime.attention import AttentionWay, attend, has_packed_linear, packs
from qcore.runtime.choice import Chooser, fastest_ms, one_thread
from qcore.runtime.convolution import has_packed_convolution
from qcore.runtime.integer import IntegerMatrix, has_integer_kernels, sums_full_bytes
from qcore.runtime.linear import PackedLinear
from qcore.runtime.rounding import Rounding

log = logging.getLogger(__name__)

MIN_GAIN = 1.15
"""bfloat16 costs accuracy: it must beat float32 by this factor to be chosen."""
_FORMAT = 8


@dataclass(frozen=True, slots=True)
class KernelProbe:
    """What was measured; times in milliseconds for a linear layer of
    1024 x 512 x 1024 on one thread."""

    processor: str
    torch_version: str
    float32_ms: float
    bfloat16_ms: float
    packed_linear: bool
    packed_convolution: bool
    integer_ms: float | None = None
    """8-bit integers, with rounding the input; None without such kernels."""
    full_bytes: bool = False
    """Whether products of full 8-bit operands are exact (VNNI); else up to 7 bits."""
    attention_ms: dict[str, dict[str, float]] = field(default_factory=dict)
    """Every `AttentionWay` of computing an attention, by dtype."""

    def attention_way(self, dtype: str) -> AttentionWay:
        """The fastest way to compute an attention in ``float32`` or ``bfloat16``."""
        times = self.attention_ms.get(dtype, {})
        return AttentionWay(min(times, key=times.__getitem__)) if times else AttentionWay.PACKED

    @property
    def integers(self) -> bool:
        """Whether 8-bit integers beat both kinds of floats: they cost no accuracy, so any gain counts."""
        return self.integer_ms is not None and self.integer_ms < min(self.float32_ms, self.bfloat16_ms)

    @property
    def summary(self) -> str:
        """A few words: what plain and quantized models run in, e.g. ``fp32; quantized int8 + fp32``."""
        plain = "bf16" if self.dtype is torch.bfloat16 else "fp32"
        return f"{plain}; quantized {'int8 + ' if self.integers else ''}{plain}"

    @property
    def dtype(self) -> torch.dtype:
        """bfloat16 where it is clearly faster than float32, else float32."""
        return torch.bfloat16 if self.bfloat16_ms * MIN_GAIN < self.float32_ms else torch.float32


def processor_name() -> str:
    """The CPU's marketing name where the system tells it, else its architecture."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def cache_file() -> Path:
    """Where the measurement of this machine is kept."""
    return Path(platformdirs.user_cache_dir("qminisam2")) / "kernels.json"


@torch.inference_mode()
def measure() -> KernelProbe:
    """Time float32, bfloat16 and 8-bit integers on one CPU thread; takes some tens of milliseconds."""
    layer = nn.Linear(512, 1024)
    rows = torch.randn(1024, 512)
    times = {}
    for dtype in (torch.float32, torch.bfloat16):
        packed = PackedLinear.of(layer, dtype, rows.shape[0])
        operand = rows.to(dtype)
        with one_thread():
            times[dtype] = fastest_ms(functools.partial(packed, operand))
    integer_ms = None
    if has_integer_kernels():
        codes = torch.randint(-31, 32, layer.weight.shape, dtype=torch.int8)
        matrix = IntegerMatrix(codes, torch.ones(codes.shape[0]), None, rows.shape[0])
        rounding = Rounding(0.1, 31, 63)
        with one_thread():
            integer_ms = round(fastest_ms(lambda: matrix.multiply(rounding.bytes(rows), 0.1, 31)), 3)
    attention: dict[str, dict[str, float]] = {}
    for dtype in (torch.float32, torch.bfloat16):
        if packs(dtype):
            operands = [torch.randn(1, *shape).to(dtype) for shape in ((512, 256), (2048, 256), (2048, 64))]
            ways = [way for way in AttentionWay if way is not AttentionWay.PLAIN or dtype is torch.float32]
            with one_thread():
                calls = {way: functools.partial(attend, *operands, way=way) for way in ways}
                attention[str(dtype).removeprefix("torch.")] = {
                    str(way): round(fastest_ms(calls[way]), 3) for way in ways
                }
    return KernelProbe(
        processor_name(),
        torch.__version__,
        round(times[torch.float32], 3),
        round(times[torch.bfloat16], 3),
        has_packed_linear(),
        has_packed_convolution(),
        integer_ms,
        sums_full_bytes(),
        attention,
    )


def _read_content() -> dict[str, Any]:
    """What was remembered, while processor and torch are the same; else nothing."""
    try:
        content = json.loads(cache_file().read_text(encoding="utf-8"))
        if content["format"] != _FORMAT:
            return {}
        probe = KernelProbe(**content["probe"])
        choices = {
            str(case): {str(way): float(ms) for way, ms in times.items()}
            for case, times in content["choices"].items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
    if (probe.processor, probe.torch_version) != (processor_name(), torch.__version__):
        return {}
    return {"probe": probe, "choices": choices}


def _keep(probe: KernelProbe, choices: dict[str, dict[str, float]]) -> None:
    path = cache_file()
    content = {"format": _FORMAT, "probe": asdict(probe), "choices": choices}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        staged = path.with_suffix(f".{os.getpid()}.part")
        staged.write_text(json.dumps(content), encoding="utf-8")
        staged.replace(path)
    except OSError as error:
        log.info("cannot keep the measurement in %s: %s", path, error)


def cpu_kernels() -> KernelProbe:
    """This machine's measurement: the remembered one while processor and torch are the same."""
    content = _read_content()
    if content:
        remembered: KernelProbe = content["probe"]
        return remembered
    probe = measure()
    log.info("measured kernels: %s", probe)
    _keep(probe, {})
    return probe


def remembered_choices() -> dict[str, dict[str, float]]:
    """Milliseconds of every way to do a kind of work, as far as models were loaded that needed it."""
    choices: dict[str, dict[str, float]] = _read_content().get("choices", {})
    return choices


def chooser_of_this_machine() -> Chooser:
    """One that knows what was measured here before; `remember` keeps what it adds."""
    probe = cpu_kernels()
    return Chooser(remembered_choices(), integers=probe.integer_ms is not None)


def remember(chooser: Chooser) -> None:
    """Keep the times of a chooser for the models to come."""
    if chooser.measured:
        _keep(cpu_kernels(), {**remembered_choices(), **chooser.known})
