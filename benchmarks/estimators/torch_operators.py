"""What the adapters of PyTorch's peers share: seeds and arrays."""

from typing import Any

import numpy as np


def seeded(fn: Any) -> Any:
    """A run of ``fn()`` that sets PyTorch's own seed first."""
    import torch

    def run(seed: int) -> Any:
        torch.manual_seed(seed)
        return fn()

    return run


def as_numpy(x: Any) -> np.ndarray:
    """A tensor, or list of tensors, as an array."""
    return x.detach().cpu().numpy() if hasattr(x, "detach") else np.asarray([float(v) for v in x])
