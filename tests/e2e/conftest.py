"""A real window on a small clip, and the rule that no test leaves a thread behind."""

from __future__ import annotations

from window_fixtures import clip, engine_backend, no_thread_is_left, open_window, settings

__all__ = ["clip", "engine_backend", "no_thread_is_left", "open_window", "settings"]
