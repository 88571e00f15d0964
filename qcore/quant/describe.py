"""Which full-precision model a bundle is made from, as the bundle's header tells it."""

from __future__ import annotations

from pathlib import Path

from sam2.modeling.sam2_base import SAM2Base

from qcore.models.files import safetensors_metadata, sha256_of
from qcore.models.loading import embedded_arch, resolve_model
from qcore.models.official import recognise_official
from qcore.models.registry import BUNDLE_METADATA_KEY, MODELS, ModelKind
from qcore.quant.affine import QuantizationError
from qcore.quant.bundle_header import ModelDescription


def describe_model(id_or_path: str | Path, model: SAM2Base) -> ModelDescription:
    """The description of a loaded model and the file it came from.

    Raises:
        QuantizationError: it is itself a quantized bundle.
        ModelError: the file is neither ours nor an official checkpoint.
    """
    path = resolve_model(id_or_path)
    digest = sha256_of(path)
    if path.suffix != ".safetensors":
        spec = MODELS.get(str(id_or_path))
        if spec is None or spec.kind is not ModelKind.OFFICIAL:
            spec = recognise_official(model.state_dict())
        return ModelDescription(spec.id, digest, model.image_size)
    if BUNDLE_METADATA_KEY in safetensors_metadata(path):
        raise QuantizationError("This model is quantized already: choose its full-precision original.")
    name = str(id_or_path) if str(id_or_path) in MODELS else path.name
    return ModelDescription(name, digest, model.image_size, embedded_arch(path))
