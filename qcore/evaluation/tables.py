"""The paper's Tables 1 to 3 and Figure 3 for any model: which rows there are, and how they are written down.

A row is one recipe with one seed: calibrate, save the bundle, read it back, score it. A finished row is a
file, so an interrupted run goes on where it was. Clips for calibration are given apart from the benchmark.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

METHOD_ROWS = ("minmax", "percentile", "omse", "adaround", "brecq", "qdrop", "ptq4sam", "q-minisam2")
ABLATION = (
    ("Base", False, False),
    ("Base+MKV", False, True),
    ("Base+HVQ", True, False),
    ("Ours", True, True),
)
"""Name, HVQ, Mutual-KV of Table 3's rows."""
FULL_PRECISION = "fp"


@dataclass(frozen=True, slots=True)
class Recipe:
    """What one row is calibrated with; method `FULL_PRECISION` is the original."""

    method: str
    bits: str = ""
    hvq: bool = True
    mutual_kv: bool = True
    seed: int = 0

    @property
    def key(self) -> str:
        """The row's file name without suffix."""
        if self.method == FULL_PRECISION:
            return FULL_PRECISION
        terms = "" if self.method != "q-minisam2" else f"-hvq{self.hvq:d}-mkv{self.mutual_kv:d}"
        return f"{self.method}-{self.bits}{terms}-seed{self.seed}"


def table_recipes(
    bits: Sequence[str], methods: Sequence[str], seeds: Sequence[int], ablation: bool
) -> list[Recipe]:
    """Every recipe once, the original first; methods with the first seed, the ablation with all seeds."""
    found = [Recipe(FULL_PRECISION)]
    found += [Recipe(name, width, seed=seeds[0]) for width in bits for name in methods]
    if ablation:
        found += [
            Recipe("q-minisam2", width, hvq, mkv, seed)
            for width in bits
            for seed in seeds
            for _, hvq, mkv in ABLATION
        ]
    return list(dict.fromkeys(found))


class RowStore:
    """Finished rows in a folder, valid for one set of settings.

    Raises:
        ValueError: the folder holds rows of other settings.
    """

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        self._folder = folder / "rows"
        self._folder.mkdir(parents=True, exist_ok=True)
        record = self._folder / "settings.txt"
        text = json.dumps(settings, sort_keys=True)
        if record.exists() and record.read_text(encoding="utf-8") != text:
            raise ValueError(f"{folder} holds rows of other settings: choose another folder.")
        record.write_text(text, encoding="utf-8")

    def load(self, recipe: Recipe) -> dict[str, Any] | None:
        """The finished row, or None."""
        path = self._folder / f"{recipe.key}.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None

    def save(self, recipe: Recipe, row: dict[str, Any]) -> None:
        """Write a row; under its name only once it is complete."""
        path = self._folder / f"{recipe.key}.json"
        partial = path.with_suffix(".part")
        partial.write_text(json.dumps({**asdict(recipe), **row}, indent=2), encoding="utf-8")
        partial.replace(path)


def tables_markdown(rows: dict[str, dict[str, Any]], recipes: Sequence[Recipe]) -> str:
    """Tables 1 to 3 from finished rows; J&F and mAP in percent, ``kept`` against full precision."""
    full = rows[FULL_PRECISION]
    lines = [
        "| method | bits | seed | mAP (Table 1) | J&F (Table 2) | J | F | kept | size, MB | calibration, s |"
    ]
    lines.append("|---" * 10 + "|")
    for recipe in recipes:
        if recipe.hvq and recipe.mutual_kv and recipe.key in rows:
            lines.append(_row_line(recipe, rows[recipe.key], full))
    widths = [w for w in dict.fromkeys(r.bits for r in recipes) if w]
    for width in widths:
        body = [_ablation_line(name, hvq, mkv, width, rows, recipes) for name, hvq, mkv in ABLATION]
        if all(body):
            lines += ["", f"Table 3, {width}: mean J&F over seeds, and their sample deviation.", ""]
            lines += ["| variant | J&F | deviation | seeds |", "|---|---|---|---|", *body]
    return "\n".join(lines) + "\n"


def _row_line(recipe: Recipe, row: dict[str, Any], full: dict[str, Any]) -> str:
    def number(name: str) -> str:
        return "-" if row.get(name) is None else f"{row[name]:.2f}"

    kept = "-"
    if row.get("JF") is not None and full.get("JF"):
        kept = f"{100 * row['JF'] / full['JF']:.1f} %"
    size = f"{row['size_bytes'] / 1e6:.2f}"
    return (
        f"| {recipe.method} | {recipe.bits or 'fp32'} | {recipe.seed} | {number('mAP')} | {number('JF')} "
        f"| {number('J')} | {number('F')} | {kept} | {size} | {row['calibration_s']:.0f} |"
    )


def _ablation_line(
    name: str,
    hvq: bool,
    mkv: bool,
    width: str,
    rows: dict[str, dict[str, Any]],
    recipes: Sequence[Recipe],
) -> str:
    """One line of Table 3, or an empty text when its rows are not there."""
    wanted = ("q-minisam2", width, hvq, mkv)
    scores = [
        rows[r.key]["JF"]
        for r in recipes
        if (r.method, r.bits, r.hvq, r.mutual_kv) == wanted and rows.get(r.key, {}).get("JF") is not None
    ]
    if not scores:
        return ""
    spread = f"{np.std(scores, ddof=1):.2f}" if len(scores) > 1 else "-"
    return f"| {name} | {np.mean(scores):.2f} | {spread} | {len(scores)} |"


def size_figure(rows: Sequence[dict[str, Any]]) -> str:
    """Figure 3 as SVG: file size in MB (logarithmic) against J&F in percent."""
    points = [
        (r["size_bytes"] / 1e6, r["JF"], f"{r['method']} {r['bits']}".strip()) for r in rows if r.get("JF")
    ]
    width, height, margin = 640, 400, 50
    xs, ys = np.log10([p[0] for p in points] or [1.0]), np.array([p[1] for p in points] or [0.0])
    x0, y0 = float(xs.min()), float(ys.min())
    x_span, y_span = max(float(xs.max()) - x0, 1e-6), max(float(ys.max()) - y0, 1e-6)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif">'
    ]
    parts.append('<rect width="100%" height="100%" fill="white"/>')
    parts.append(f'<text x="{width / 2}" y="{height - 8}" font-size="12">file size, MB (log)</text>')
    parts.append('<text x="8" y="16" font-size="12">J&amp;F, %</text>')
    for x, y, (size, score, name) in zip(xs, ys, points):
        cx = margin + (float(x) - x0) / x_span * (width - 4 * margin)
        cy = height - margin - (float(y) - y0) / y_span * (height - 2 * margin)
        parts.append(f'<circle cx="{cx:.1f}" cy="{cy:.1f}" r="4" fill="#1f77b4"/>')
        label = f"{name}: {size:.2f} MB, {score:.1f}"
        parts.append(f'<text x="{cx + 7:.1f}" y="{cy + 4:.1f}" font-size="10">{label}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"
