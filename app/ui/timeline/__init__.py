"""Presence lanes, confidence and marks over the frames."""
