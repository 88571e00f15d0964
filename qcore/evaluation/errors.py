"""The exception family of `qcore.evaluation`."""

from __future__ import annotations


class EvaluationError(ValueError):
    """A benchmark cannot be run as asked; the message is one sentence for the user."""
