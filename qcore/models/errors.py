"""The exception family of `qcore.models`."""


class ModelError(RuntimeError):
    """A model cannot be found, fetched, read or built; the message is one sentence for the user."""


class UnreachableError(ModelError):
    """The server of a download does not answer; what has arrived is kept."""


class DownloadCancelledError(ModelError):
    """The user stopped a download; what has arrived is kept and continues next time."""
