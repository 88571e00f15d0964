"""The one thread that owns the model: job queue, propagation, progress, cancel. Results leave it as RLE."""
