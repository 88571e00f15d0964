"""Which models the user can choose, from the registry, and how they are named; nothing here loads one."""

from __future__ import annotations

import re

from app.ui.i18n import tr
from qcore.models.registry import model_statuses


def model_choices() -> list[tuple[str, str]]:
    """(id, title) of the models that are installed, the embedded ones first."""
    return [
        (row.id, f"{row.title}, {precision_phrase(row.precision)}")
        for row in model_statuses()
        if row.installed
    ]


def precision_phrase(precision: str) -> str:
    """A precision as it is shown: ``W6A6`` for bits, ``mixed bits`` where layers differ, else as it is."""
    if re.fullmatch(r"w\d+a\d+", precision):
        return precision.upper()
    return tr("mixed bits") if precision == "auto" else precision
