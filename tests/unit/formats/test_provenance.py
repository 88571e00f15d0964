"""Every export says which model made its masks, in which precision, and with which Mutual-KV threshold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import av
import pytest

from app.formats import FORMATS, ExportOptions
from app.project import Project
from app.project.model import AUTOMATIC_EPSILON, Provenance


def found_in(value: Any) -> list[dict[str, Any]]:
    """Every mapping below ``value`` that names a model and its precision as the latest of some runs."""
    if isinstance(value, list):
        return [hit for item in value for hit in found_in(item)]
    if not isinstance(value, dict):
        return []
    own = [value] if {"model", "precision", "mutual_kv_epsilon", "runs"} <= value.keys() else []
    return own + [hit for item in value.values() for hit in found_in(item)]


def provenance_in(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".mp4":
        with av.open(str(path)) as container:
            return found_in(json.loads(container.metadata["comment"]))
    files = [path] if path.is_file() else sorted(path.rglob("*.json"))
    return [hit for file in files for hit in found_in(json.loads(file.read_text(encoding="utf-8")))]


@pytest.mark.parametrize("format_id", list(FORMATS))
def test_model_precision_and_epsilon_are_in_every_export(
    format_id: str, project: Project, tmp_path: Path
) -> None:
    project.record_provenance(Provenance("my-videos", "w4a4", AUTOMATIC_EPSILON, "1.0"))
    entry = FORMATS[format_id]
    target = tmp_path / entry.default_name(project.video)
    entry.export(project, target, ExportOptions(stride=1))
    hits = provenance_in(target)
    assert hits, f"{format_id} does not say what made its masks"
    for hit in hits:
        assert (hit["model"], hit["precision"], hit["mutual_kv_epsilon"]) == ("my-videos", "w4a4", "auto")
        assert [(run["model"], run["precision"], run["mutual_kv_epsilon"]) for run in hit["runs"]] == [
            ("embedded", "w6a6", 0.94),
            ("my-videos", "w4a4", "auto"),
        ]


def test_the_latest_run_is_the_last_one_and_repeats_are_kept_once(project: Project) -> None:
    first = project.provenance[0]
    other = Provenance("other", "fp32", None, "1.0")
    for run in (other, other, first):
        project.record_provenance(run)
    assert project.provenance == (other, first)
