"""Post-training quantization of SAM 2 for video."""
