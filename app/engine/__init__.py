"""The one thread that owns the model, its job queue, progress and cancel."""
