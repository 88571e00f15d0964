"""Integer and low-precision kernels, and the choice of back end for a device."""
