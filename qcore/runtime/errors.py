"""Why a module keeps its own arithmetic."""

from __future__ import annotations


class UnsupportedModuleError(TypeError):
    """A module differs from what the fast path was written for; the caller keeps the original."""
