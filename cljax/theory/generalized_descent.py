"""Generalized gradient descent: steps along the gradient of a conjugate energy function."""

from typing import Any

import optax

from cljax._typing import PyTree
from cljax.losses.energy import PowerEnergy


def generalized_gradient_descent(energy: PowerEnergy, learning_rate: float = 1.0) -> optax.GradientTransformation:
    """Optax transformation with the update −α ∇Ψ*(∇G).

    With S_G(μ, ν) ≤ Ψ(μ − ν), a step of α = 1 minimizes the majorant G(ν) + <∇G(ν), μ − ν> + Ψ(μ − ν) and lowers G by
    Ψ*(∇G) at least. That is optimal for the majorant, not for G: on |x|^r with a majorant a |·|^r the best fixed step
    is a^(1/(r−1)), and every a that majorizes is above 1 for r < 2. For the a = 2^(2−r) of the source's lemma 6.1,
    which is not the least one, that is 2^((2−r)/(r−1)). The experiments of the source show 1 as the best step for all
    r; they agree with the energy |·|^r, which is no majorant for r < 2.

    Args:
        energy: Ψ.
        learning_rate: α, above 0.

    Returns:
        A stateless ``optax.GradientTransformation``; it may be chained.

    Raises:
        TypeError: if ``energy`` is no energy function.
        ValueError: if the learning rate is not above 0 and finite.

    Example:
        >>> import jax.numpy as jnp
        >>> import optax
        >>> from cljax import losses, theory
        >>> optimizer = theory.generalized_gradient_descent(losses.power_energy(2.0))
        >>> updates, _ = optimizer.update(jnp.array([3.0]), optimizer.init(jnp.zeros(1)))
        >>> updates.tolist()
        [-3.0]

    References:
        arXiv:2608.09523, Definition 4.1, Theorem 4.1 and section 6.2.
    """
    if not isinstance(energy, PowerEnergy):
        raise TypeError(f"energy: expected an energy function, got {type(energy).__name__}; see losses.power_energy")
    if not 0 < learning_rate < float("inf"):
        raise ValueError(f"learning_rate: expected a finite number above 0, got {learning_rate}")
    dual = energy.dual

    def update(gradient: PyTree, state: Any, params: PyTree = None) -> tuple[PyTree, Any]:
        del params
        step = dual.gradient(gradient)
        return optax.tree.scale(-learning_rate, step), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)
