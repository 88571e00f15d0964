"""The one exception family of tracking; messages are sentences for the person at the screen."""

from __future__ import annotations


class TrackingError(Exception):
    """Tracking cannot do what was asked; the message says why in one sentence."""
