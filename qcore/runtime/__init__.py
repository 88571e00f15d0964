"""Integer and low-precision kernels, and the choice of back end for a device.

`lower` swaps a loaded model's large parts for kernels that compute the same function faster.
"""

from qcore.runtime.lower import KernelReport, Precision, lower
from qcore.runtime.probe import KernelProbe, cpu_kernels

__all__ = ["KernelProbe", "KernelReport", "Precision", "cpu_kernels", "lower"]
