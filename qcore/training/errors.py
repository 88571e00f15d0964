"""The error of this package."""


class TrainingError(Exception):
    """Training cannot go on; the message is one sentence for the person at the terminal."""
