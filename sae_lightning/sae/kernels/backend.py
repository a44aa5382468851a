"""Which form of a kernel runs: Triton's on a GPU that has it, torch's elsewhere."""

from torch import Tensor

from sae_lightning.sae.kernels import triton

#: Tests set it: Triton's interpreter then does on the CPU what a GPU would.
INTERPRET = False


def use_triton(*tensors: Tensor) -> bool:
    """Return whether the Triton kernels take these tensors."""
    return all((tensor.is_cuda or INTERPRET) and triton.available(tensor) for tensor in tensors)
