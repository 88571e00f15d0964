"""Annotation formats, one module each; pure functions, no Qt."""
