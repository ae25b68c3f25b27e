"""The same networks in PyTorch with the same weights, written so that its transforms differentiate them best."""

import dataclasses
from typing import Any

import jax
import numpy as np

from benchmarks.networks import Network
from benchmarks.synthetic import torch_device


@dataclasses.dataclass(frozen=True)
class Twin:
    """A network in PyTorch.

    Attributes:
        model: the module, in evaluation mode.
        criterion: ``criterion(scores, targets)``, the mean loss.
        inputs: tensor.
        targets: tensor of labels.
        paths: of each parameter of ``model``, in its order, the path in the parameters of JAX.
        shapes: of the parameters of JAX, by path in the order of its leaves.
    """

    model: Any
    criterion: Any
    inputs: Any
    targets: Any
    paths: tuple[str, ...]
    shapes: dict[str, tuple[int, ...]]

    def to_flat(self, tensors: Any) -> np.ndarray:
        """A vector of the space of the parameters, in the order of JAX's leaves.

        Args:
            tensors: one flat tensor, or one for each parameter of ``model``.

        Returns:
            Shape (n,).
        """
        parameters = list(self.model.parameters())
        if not isinstance(tensors, list | tuple):
            tensors = tensors.split([p.numel() for p in parameters])
        arrays = [t.detach().reshape(p.shape).cpu().numpy() for t, p in zip(tensors, parameters, strict=True)]
        found = {path: _swap(path, array, to_jax=True) for path, array in zip(self.paths, arrays, strict=True)}
        return np.concatenate([found[path].reshape(-1) for path in self.shapes])

    def from_flat(self, vector: np.ndarray) -> list[Any]:
        """The other way round.

        Args:
            vector: shape (n,), in the order of JAX's leaves.

        Returns:
            One tensor for each parameter of ``model``.
        """
        import torch

        ends = np.cumsum([int(np.prod(shape)) for shape in self.shapes.values()])
        parts = np.split(np.asarray(vector), ends[:-1])
        found = {path: part.reshape(self.shapes[path]) for path, part in zip(self.shapes, parts, strict=True)}
        device = next(self.model.parameters()).device
        arrays = [np.ascontiguousarray(_swap(path, found[path], to_jax=False)) for path in self.paths]
        return [torch.from_numpy(array).to(device) for array in arrays]


def twin(network: Network) -> Twin:
    """The network in PyTorch, on the accelerator where PyTorch has one and JAX runs on one too.

    Args:
        network: a network.

    Returns:
        The twin, with the same weights and batch.

    Raises:
        NotImplementedError: if the model has no twin.
        ValueError: if the twin has other parameters than the network.
    """
    import torch

    from benchmarks.torch_modules import MODULES

    if network.spec.model not in MODULES:
        raise NotImplementedError(f"no twin of {network.spec.model} in PyTorch")
    leaves = jax.tree_util.tree_flatten_with_path(network.params)[0]
    arrays = {".".join(key.key for key in path): np.asarray(leaf) for path, leaf in leaves}
    model = MODULES[network.spec.model](network.apply_fn, {path: array.shape for path, array in arrays.items()})
    paths = tuple(_jax_path(name, arrays) for name, _ in model.named_parameters())
    if sorted(paths) != sorted(arrays):
        raise ValueError(f"model: expected the parameters {sorted(arrays)}, got {sorted(paths)}")
    with torch.no_grad():
        for path, parameter in zip(paths, model.parameters(), strict=True):
            parameter.copy_(torch.from_numpy(np.array(_swap(path, arrays[path], to_jax=False), order="C")))
    device = torch_device()
    inputs, targets = (torch.from_numpy(np.array(x)).to(device) for x in (network.batch.inputs, network.batch.targets))
    shapes = {path: array.shape for path, array in arrays.items()}
    criterion = _cross_entropy if network.spec.loss == "shannon" else _squared
    return Twin(model.to(device).eval(), criterion, inputs, targets.long(), paths, shapes)


def _cross_entropy(scores: Any, targets: Any) -> Any:
    import torch

    return torch.nn.functional.cross_entropy(scores.reshape(-1, scores.shape[-1]), targets.reshape(-1))


def _squared(scores: Any, targets: Any) -> Any:
    import torch

    wanted = torch.nn.functional.one_hot(targets, scores.shape[-1]).to(scores.dtype)
    return ((scores - wanted) ** 2).sum(-1).mean() / 2


def _jax_path(name: str, arrays: dict[str, Any]) -> str:
    stem, _, last = name.rpartition(".")
    for candidate in (name, f"{stem}.kernel" if last == "weight" else "", f"{stem}.scale" if last == "weight" else ""):
        if candidate in arrays:
            return candidate
    return name


def _swap(path: str, array: np.ndarray, to_jax: bool) -> np.ndarray:
    """Kernels of dense layers are transposed, those of convolutions (H, W, in, out) here and (out, in, H, W) there."""
    if not path.endswith("kernel"):
        return array
    if array.ndim == 2:
        return array.T
    return array.transpose((2, 3, 1, 0) if to_jax else (3, 2, 0, 1))
