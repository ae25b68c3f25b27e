"""A model by name, as parameters in plain dicts and a pure function of them."""

import dataclasses
import functools
import inspect
import math
from collections.abc import Callable
from typing import Any

import jax
from flax import nnx

from cljax._checks import check_key, check_positive_int
from cljax._registry import did_you_mean, lookup
from cljax._typing import PyTree
from cljax.training.models.cnn import CNN
from cljax.training.models.lenet import LeNet
from cljax.training.models.mlp import MLP
from cljax.training.models.resnet import ResNet18
from cljax.training.models.vit import ViT

MODELS: dict[str, Callable[..., nnx.Module]] = {
    "mlp": MLP,
    "cnn": CNN,
    "lenet": LeNet,
    "resnet18": ResNet18,
    "vit": ViT,
}
"""Modules by name, called as ``module(input_shape, num_classes, rngs=rngs, **options)``; the options are the keyword
arguments with a default. A new model is a new entry: it must hold nothing but ``nnx.Param`` arrays."""


@dataclasses.dataclass(frozen=True)
class ModelFn:
    """The function (params, inputs) -> scores of a model: equal and hashed by value, so jit does not trace it again.

    Attributes:
        module: the module class, an entry of ``MODELS``.
        input_shape: shape (H, W, C) of one input.
        num_classes: number K of scores.
        options: all options of the model as sorted pairs, defaults included.
    """

    module: Callable[..., nnx.Module]
    input_shape: tuple[int, ...]
    num_classes: int
    options: tuple[tuple[str, Any], ...]

    def __call__(self, params: PyTree, inputs: jax.Array) -> jax.Array:
        """Scores of a batch.

        Args:
            params: nested dict of arrays, as ``create_model`` makes it.
            inputs: shape (batch, H, W, C).

        Returns:
            Shape (batch, K).

        Raises:
            ValueError: if the shape of ``inputs`` is another one.
        """
        if inputs.ndim != 1 + len(self.input_shape) or inputs.shape[1:] != self.input_shape:
            expected = ", ".join(map(str, ("batch", *self.input_shape)))
            raise ValueError(
                f"inputs: expected shape ({expected}), got {inputs.shape}; reshape, or inputs[None] for one"
            )
        return nnx.merge(_graphdef(self), params)(inputs)

    def build(self, key: jax.Array) -> nnx.Module:
        """The module itself, with initial weights.

        Args:
            key: typed PRNG key.

        Returns:
            A new module.
        """
        return self.module(self.input_shape, self.num_classes, rngs=nnx.Rngs(key), **dict(self.options))


@dataclasses.dataclass(frozen=True, eq=False)
class Model:
    """A network as a pure pair.

    Attributes:
        params: nested dict, string keys, of float32 arrays: all of them are trained.
        apply_fn: ``apply_fn(params, inputs) -> scores``, shapes (batch, H, W, C) -> (batch, K).
    """

    params: PyTree
    apply_fn: ModelFn


def create_model(name: str, key: jax.Array, input_shape: tuple[int, ...], num_classes: int, **options: Any) -> Model:
    """A model with initial parameters.

    There is no batch normalisation and no dropout in any of them: the scores of an example depend on the parameters
    and on that example alone, so that objectives are means of per-example losses and their Hessians mean something.

    Args:
        name: one of ``MODELS``: "mlp", "cnn", "lenet", "resnet18", "vit".
        key: typed PRNG key; the same key gives the same parameters.
        input_shape: shape (H, W, C) of one input.
        num_classes: number K of scores.
        **options: of the model: its keyword arguments, see its class.

    Returns:
        Parameters and function. Equal arguments, the key apart, give equal functions.

    Raises:
        ValueError: if the name is unknown, or a shape or the value of an option does not fit.
        TypeError: if an option is unknown, the key is not a typed key, or a number is no integer.

    Example:
        >>> model = create_model("mlp", jax.random.key(0), (8, 8, 1), 10, hidden=(32,))
        >>> model.apply_fn(model.params, jax.numpy.zeros((5, 8, 8, 1))).shape
        (5, 10)
    """
    module = lookup("model", MODELS, name)
    check_key("key", key)
    num_classes = check_positive_int("num_classes", num_classes)
    shape = input_shape
    if not isinstance(shape, tuple | list) or len(shape) != 3:
        raise ValueError(f"input_shape: expected (height, width, channels), got {shape!r}; add an axis of 1 for grey")
    shape = tuple(check_positive_int("input_shape", size) for size in shape)
    apply_fn = ModelFn(module, shape, num_classes, _complete(name, module, options))
    return Model(_init(apply_fn, key), apply_fn)


def num_params(params: PyTree) -> int:
    """Number of entries of all leaves.

    Args:
        params: pytree of arrays.

    Returns:
        The sum of their sizes.
    """
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))


def _complete(name: str, module: Callable[..., nnx.Module], options: dict[str, Any]) -> tuple[tuple[str, Any], ...]:
    """All options of a module, those given and the defaults of the others, as sorted pairs; lists become tuples.

    Args:
        name: the model's name, for messages.
        module: the module class.
        options: those given.

    Returns:
        Hashable pairs (name, value).

    Raises:
        TypeError: if an option is unknown or its value not hashable.
    """
    parameters = inspect.signature(module.__init__ if inspect.isclass(module) else module).parameters.values()
    known = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is not p.empty}
    for option, value in options.items():
        if option not in known:
            near = did_you_mean(known, option)
            raise TypeError(f"{option}: expected an option of {name}, one of {', '.join(known)}; got {option!r}{near}")
        known[option] = tuple(value) if isinstance(value, list) else value
        try:
            hash(known[option])
        except TypeError:
            got = type(value).__name__
            raise TypeError(f"{option}: expected a number, a string or a tuple of them, got {got}") from None
    return tuple(sorted(known.items()))


@functools.partial(jax.jit, static_argnums=0)
def _init(apply_fn: ModelFn, key: jax.Array) -> PyTree:
    """Initial parameters as nested dicts."""
    return nnx.to_pure_dict(nnx.state(apply_fn.build(key)))


@functools.lru_cache(maxsize=256)
def _graphdef(apply_fn: ModelFn) -> nnx.GraphDef:
    """The module without its arrays, built from shapes alone."""
    return nnx.graphdef(nnx.eval_shape(apply_fn.build, jax.random.key(0)))
