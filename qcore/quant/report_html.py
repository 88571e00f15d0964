"""A calibration's report as one HTML file: no script, nothing loaded from elsewhere, every text escaped.

Charts are inline SVG. A program that prints the page with a renderer without SVG (Qt's rich text) gives its
own pictures for them.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from qcore.masks import Rle, decode
from qcore.quant.report import CalibrationReport, FlipFrame, ModelCost

WORST_LAYERS = 24
WORST_FRAMES = 6
_BLUE, _ORANGE, _GREY = "#1f62d6", "#c8641b", "#5d626a"
_CSS = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1b1d20; background: #fff; margin: 32px auto;
       max-width: 860px; padding: 0 24px; }
h1 { font-size: 26px; margin: 0 0 4px; } h2 { font-size: 18px; margin: 32px 0 8px; }
table { border-collapse: collapse; } td, th { padding: 4px 20px 4px 0; text-align: left; }
th { color: #5d626a; font-weight: 600; } td.n, th.n { text-align: right; }
p.verdict { font-size: 17px; } .muted { color: #5d626a; }
figure { margin: 0 0 16px; } figure img { width: 49%; border-radius: 4px; }
figcaption { color: #5d626a; font-size: 13px; } svg { max-width: 100%; height: auto; }
"""


def report_html(report: CalibrationReport, charts: Mapping[str, str] | None = None) -> str:
    """The whole page.

    Args:
        report: what to print.
        charts: HTML in place of the SVG charts ``agreement``, ``losses`` and ``layers``.
    """
    drawn = {
        "agreement": agreement_svg(report),
        "losses": losses_svg(report),
        "layers": layers_svg(report),
        **(charts or {}),
    }
    parts = [
        f"<h1>{escape(report.name)}</h1>",
        f'<p class="muted">{escape(_recipe(report))}</p>',
        f'<p class="verdict">{escape(report.verdict())}</p>',
        "<h2>Before and after</h2>",
        _costs(report),
        _accepted(report),
        "<h2>Agreement with the original, frame by frame</h2>",
        f'<p class="muted">{escape(_checked(report))}</p>',
        drawn["agreement"],
        _worst(report),
        "<h2>Layers</h2>",
        f'<p class="muted">Signal to noise at the output of the {min(WORST_LAYERS, len(report.layers))} '
        f"worst of {len(report.layers)} layers; 6 dB are about one bit.</p>",
        drawn["layers"],
        _parts(report),
    ]
    if report.losses:
        parts += ["<h2>Fitting</h2>", _fitting_text(report), drawn["losses"], _units(report)]
    parts += ["<h2>Calibration clips</h2>", _clips(report)]
    body = "\n".join(filter(None, parts))
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f"<title>{escape(report.name)}: calibration report</title><style>{_CSS}</style></head>\n"
        f"<body>\n{body}\n</body></html>\n"
    )


def _recipe(report: CalibrationReport) -> str:
    words = [report.bits.upper(), report.method]
    if report.iterations:
        words.append(f"{report.iterations} iterations a unit")
    words.append(f"seed {report.seed}")
    words.append(f"{sum(count for _, count in report.clips)} frames of {len(report.clips)} clips")
    words.append(f"{report.seconds / 60:.1f} min")
    words += [f"{key} {value}" for key, value in report.machine.items()]
    return ", ".join(words)


def _row(cells: Sequence[str], tag: str = "td") -> str:
    first, *rest = (escape(cell) for cell in cells)
    return f"<tr><{tag}>{first}</{tag}>" + "".join(f'<{tag} class="n">{c}</{tag}>' for c in rest) + "</tr>"


def _costs(report: CalibrationReport) -> str:
    before, after = report.before, report.after
    rows = [_row(["", "original", "quantized"], "th"), _row(["precision", before.precision, after.precision])]
    rows.append(_row(["file", *(f"{cost.size_bytes / 1e6:.1f} MB" for cost in (before, after))]))
    rows.append(_row(["time a frame", *(_ms(cost) for cost in (before, after))]))
    rows.append(_row(["peak memory", *(_memory(cost) for cost in (before, after))]))
    if report.frames:
        rows.append(_row(["agreement J&F", "100", f"{100 * report.jf:.1f}"]))
    if report.jf_mutual_kv is not None and report.epsilon is not None:
        title = f"the same with Mutual-KV at {report.epsilon:.3f}"
        rows.append(_row([title, "", f"{100 * report.jf_mutual_kv:.1f}"]))
    accepted = report.accepted_jf
    if accepted is not None:
        rows.append(_row(["J&F on accepted masks", *(f"{100 * value:.1f}" for value in accepted)]))
    return f"<table>{''.join(rows)}</table>"


def _ms(cost: ModelCost) -> str:
    return "not measured" if cost.frame_ms is None else f"{cost.frame_ms:.0f} ms"


def _memory(cost: ModelCost) -> str:
    return "not measured" if cost.peak_rss_mb is None else f"{cost.peak_rss_mb:.0f} MiB"


def _accepted(report: CalibrationReport) -> str:
    if not report.accepted:
        return ""
    rows = [_row(["object", "frames", "original", "quantized"], "th")]
    rows += [
        _row([a.name, str(a.frames), f"{100 * a.jf_full:.1f}", f"{100 * a.jf_quantized:.1f}"])
        for a in report.accepted
    ]
    return f"<h2>On masks you accepted</h2><table>{''.join(rows)}</table>"


def _checked(report: CalibrationReport) -> str:
    count = len(report.frames)
    if report.held_out:
        return f"{count} frames that calibration did not use; J&F of the two models' masks, 100 = equal."
    return f"{count} frames of the calibration itself, because no others were left; this flatters the result."


def _worst(report: CalibrationReport) -> str:
    if not report.flips:
        return ""
    figures = []
    for flip in report.flips[:WORST_FRAMES]:
        images = "".join(
            f'<img width="49%" src="data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}" alt="{which}"> '
            for which, jpeg in zip(("original", "quantized"), flip_pictures(flip))
        )
        score = flip.score
        text = f"{score.clip}, frame {score.frame_index}: J&F {100 * score.jf:.1f}; original, quantized"
        figures.append(f"<figure>{images}<figcaption>{escape(text)}</figcaption></figure>")
    return "<h2>Where they differ most</h2>" + "\n".join(figures)


def _parts(report: CalibrationReport) -> str:
    rows = [_row(["kept in full precision", "mask error that goes away", "file grows by"], "th")]
    rows += [
        _row([p.title, f"{100 * p.error_share:.0f} %", f"{p.extra_bytes / 1e6:.2f} MB"]) for p in report.parts
    ]
    return f"<h2>What each part costs</h2><table>{''.join(rows)}</table>" if report.parts else ""


def _fitting_text(report: CalibrationReport) -> str:
    gains = [learned / nearest for _, nearest, learned in report.losses if nearest > 0]
    mean = 100 * (1 - float(np.mean(gains))) if gains else 0.0
    return (
        f'<p class="muted">Fitting {len(report.losses)} units lowered their error by {mean:.0f} % on average '
        "against rounding to nearest.</p>"
    )


def _units(report: CalibrationReport) -> str:
    rows = [_row(["unit", "rounded to nearest", "fitted", "change"], "th")]
    rows += [
        _row([name, f"{a:.4g}", f"{b:.4g}", f"{100 * (b / a - 1):+.0f} %" if a > 0 else ""])
        for name, a, b in report.losses
    ]
    return f"<details><summary>Loss of each unit</summary><table>{''.join(rows)}</table></details>"


def _clips(report: CalibrationReport) -> str:
    return f"<table>{''.join(_row([name, f'{count} frames']) for name, count in report.clips)}</table>"


# ---- pictures ----------------------------------------------------------------------------------------------


def flip_pictures(flip: FlipFrame) -> tuple[bytes, bytes]:
    """The frame with the original's and with the quantized model's mask, as JPEG."""
    picture = cv2.imdecode(np.frombuffer(flip.jpeg, np.uint8), cv2.IMREAD_COLOR)
    if picture is None or picture.shape[:2] != flip.full.size or flip.full.size != flip.quantized.size:
        return flip.jpeg, flip.jpeg
    pictures = []
    for rle, color_bgr in ((flip.full, (214, 98, 31)), (flip.quantized, (27, 100, 200))):
        ok, jpeg = cv2.imencode(".jpg", tinted(picture, rle, color_bgr), [cv2.IMWRITE_JPEG_QUALITY, 82])
        pictures.append(jpeg.tobytes() if ok else flip.jpeg)
    return pictures[0], pictures[1]


def tinted(picture: npt.NDArray[Any], rle: Rle, color: tuple[int, int, int]) -> npt.NDArray[Any]:
    """A copy of (H, W, 3) with a mask laid over it: 45 % fill and an outline."""
    mask = decode(rle)
    result = picture.copy()
    inside = mask > 0
    result[inside] = (0.55 * result[inside] + 0.45 * np.array(color)).astype(np.uint8)
    outlines, _ = cv2.findContours(mask, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(result, outlines, -1, color, 2, cv2.LINE_AA)
    return result


# ---- charts ------------------------------------------------------------------------------------------------


def agreement_svg(report: CalibrationReport) -> str:
    """J&F over the checked frames, clip after clip."""
    values = [100 * score.jf for score in report.frames]
    if not values:
        return ""
    floor = min(90.0, 10 * np.floor(min(values) / 10))
    width, height, left = 800, 180, 40

    def place(index: int, value: float) -> tuple[float, float]:
        x = left + (width - left - 10) * (index + 0.5) / len(values)
        return x, 10 + (height - 30) * (100 - value) / (100 - floor)

    lines = []
    for value in np.linspace(floor, 100, 3):
        _, y = place(0, float(value))
        lines.append(f'<line x1="{left}" x2="{width}" y1="{y:.1f}" y2="{y:.1f}" stroke="#d9dce0"/>')
        lines.append(f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{value:.0f}</text>')
    start = 0
    for index in range(1, len(values) + 1):
        if index == len(values) or report.frames[index].clip != report.frames[start].clip:
            path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(i, values[i]) for i in range(start, index)))
            lines.append(f'<polyline points="{path}" fill="none" stroke="{_BLUE}" stroke-width="2"/>')
            x, _ = place(start, 100)
            name = escape(report.frames[start].clip)
            lines.append(f'<text x="{x:.1f}" y="{height - 4}">{name}</text>')
            start = index
    return _svg(width, height, lines)


def losses_svg(report: CalibrationReport) -> str:
    """Each unit's loss with nearest rounding and after fitting, on a log scale."""
    losses = [(n, max(a, 1e-9), max(b, 1e-9)) for n, a, b in report.losses]
    if not losses:
        return ""
    every = [value for _, a, b in losses for value in (a, b)]
    low, high = np.log10(min(every)), np.log10(max(every)) + 1e-6
    width, height = 800, 160
    lines = []
    for index, (_, before, after) in enumerate(losses):
        x = 10 + (width - 20) * (index + 0.5) / len(losses)
        y0, y1 = (10 + (height - 40) * (high - np.log10(v)) / (high - low) for v in (before, after))
        lines.append(
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{y0:.1f}" y2="{y1:.1f}" stroke="#b3b7be" stroke-width="2"/>'
        )
        lines.append(f'<circle cx="{x:.1f}" cy="{y0:.1f}" r="3" fill="{_ORANGE}"/>')
        lines.append(f'<circle cx="{x:.1f}" cy="{y1:.1f}" r="3" fill="{_BLUE}"/>')
    lines.append(f'<text x="10" y="{height - 6}" fill="{_ORANGE}">nearest rounding</text>')
    lines.append(f'<text x="140" y="{height - 6}" fill="{_BLUE}">fitted</text>')
    lines.append(
        f'<text x="{width - 10}" y="{height - 6}" text-anchor="end">units in order, log scale</text>'
    )
    return _svg(width, height, lines)


def layers_svg(report: CalibrationReport) -> str:
    """The worst layers' output SQNR as bars."""
    worst = sorted(report.layers, key=lambda layer: layer.output_db)[:WORST_LAYERS]
    if not worst:
        return ""
    top = max(40.0, max(layer.output_db for layer in worst))
    lines = []
    for index, layer in enumerate(worst):
        y = 14 + 18 * index
        length = 300 * max(0.0, layer.output_db) / top
        activation = "fp" if layer.activation_bits is None else layer.activation_bits
        lines.append(f'<text x="430" y="{y}" text-anchor="end">{escape(layer.name)}</text>')
        lines.append(f'<rect x="440" y="{y - 10}" width="{length:.1f}" height="11" fill="{_BLUE}"/>')
        text = f"{layer.output_db:.1f} dB, W{layer.weight_bits}A{activation}"
        lines.append(f'<text x="{446 + length:.1f}" y="{y}" fill="{_GREY}">{text}</text>')
    return _svg(860, 18 * len(worst) + 8, lines)


def _svg(width: int, height: int, lines: Sequence[str]) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" font-family="system-ui, sans-serif" font-size="12" fill="#1b1d20">'
        f"{''.join(lines)}</svg>"
    )
