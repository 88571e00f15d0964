"""Which models the user can choose, from the registry; nothing here loads one."""

from __future__ import annotations

from qcore.models.registry import model_statuses


def model_choices() -> list[tuple[str, str]]:
    """(id, title) of the models that are installed, the embedded ones first."""
    return [(row.id, f"{row.title}, {row.precision}") for row in model_statuses() if row.installed]
