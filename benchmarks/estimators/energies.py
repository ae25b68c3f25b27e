"""The gradient energy, mean of |∇ℓᵢ|²: ours, and per-example gradients by vmap in JAX and in PyTorch."""

from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.estimators.base import estimator
from benchmarks.estimators.request import Request
from cljax import theory


@estimator("cljax", "gradient_energy", counts=False, settings="theory.gradient_energy, defaults")
def ours(request: Request) -> Any:
    """In chunks that fit in memory."""
    net = request.case.network
    return lambda seed: float(theory.gradient_energy(net.apply_fn, net.loss, net.params, net.batch))


@estimator("jax vmap(grad)", "gradient_energy", counts=False, package="jax", settings="all gradients at once, jitted")
def plain(request: Request) -> Any:
    """What one writes without a library."""
    net = request.case.network

    @jax.jit
    def program(params: Any, inputs: Any, targets: Any) -> jax.Array:
        return jnp.mean(squared_norms(net, params, inputs, targets))

    return lambda seed: float(program(net.params, net.batch.inputs, net.batch.targets))


def squared_norms(net: Any, params: Any, inputs: Any, targets: Any) -> jax.Array:
    """|∇ℓᵢ|² of each example, of a sequence the gradient of its mean.

    Args:
        net: a ``networks.Network``.
        params: its parameters.
        inputs: its inputs.
        targets: its targets.

    Returns:
        Shape (batch,).
    """

    def one(x: jax.Array, y: jax.Array) -> jax.Array:
        gradient = jax.grad(lambda p: jnp.mean(net.loss(net.apply_fn(p, x[None]), y[None])))(params)
        return sum((jnp.sum(leaf * leaf) for leaf in jax.tree.leaves(gradient)), jnp.zeros(()))

    return jax.vmap(one)(inputs, targets)


@estimator(
    "torch vmap(grad)",
    "gradient_energy",
    counts=False,
    package="torch",
    settings="torch.func, all gradients at once, eager",
)
def torch_plain(request: Request) -> Any:
    """The same in PyTorch."""
    import torch

    found = request.twin
    params = {name: p.detach() for name, p in found.model.named_parameters()}

    def loss(params: Any, x: Any, y: Any) -> Any:
        return found.criterion(torch.func.functional_call(found.model, params, (x[None],)), y[None])

    gradients = torch.func.vmap(torch.func.grad(loss), (None, 0, 0))

    def run(seed: int) -> float:
        squares = [(g.flatten(1) ** 2).sum(1) for g in gradients(params, found.inputs, found.targets).values()]
        return float(sum(squares).mean())

    return run
