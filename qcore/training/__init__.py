"""How the embedded model is made: data, synthesis, the training loop over `SAM2Base`, and its own metrics.

`pack` gathers photographs and labelled clips into one file, `synthesis` makes clips of it, `step` runs the
model over a clip and returns its loss, `trainer` repeats that. Nothing here is needed to run a model.
"""

from qcore.training.errors import TrainingError

__all__ = ["TrainingError"]
