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
from cljax.training.models.transformer import Transformer
from cljax.training.models.vit import ViT

MODELS: dict[str, Callable[..., nnx.Module]] = {
    "mlp": MLP,
    "cnn": CNN,
    "lenet": LeNet,
    "resnet18": ResNet18,
    "vit": ViT,
    "transformer": Transformer,
}
"""Modules by name, called as ``module(input_shape, num_classes, rngs=rngs, **options)``; the options are the keyword
arguments with a default. A new model is a new entry: it must hold nothing but ``nnx.Param`` arrays, and name the axes
of its inputs in ``input_axes`` where these are no images."""

_IMAGE_AXES = ("height", "width", "channels")
_REMEDIES = {1: "transformer takes text, the other models take images", 2: "add an axis of 1 for grey images"}


class _Keys:
    """The keys of ``nnx.Rngs(key)``; counted in Python, as traced counters take a time quadratic in the depth."""

    def __init__(self, key: jax.Array) -> None:
        self._key, self._count = key, 0

    def params(self) -> jax.Array:
        self._count += 1
        return jax.random.fold_in(self._key, self._count - 1)


@dataclasses.dataclass(frozen=True)
class ModelFn:
    """The function (params, inputs) -> scores of a model: equal and hashed by value, so jit does not trace it again.

    Attributes:
        module: the module class, an entry of ``MODELS``.
        input_shape: shape (H, W, C) of one input, (T,) of a sequence.
        num_classes: number K of scores.
        options: all options of the model as sorted pairs, defaults included.
        method: the method of the module that is called, see ``part``.
    """

    module: Callable[..., nnx.Module]
    input_shape: tuple[int, ...]
    num_classes: int
    options: tuple[tuple[str, Any], ...]
    method: str = "__call__"

    def __call__(self, params: PyTree, inputs: jax.Array) -> jax.Array:
        """Scores of a batch.

        Args:
            params: nested dict of arrays, as ``create_model`` makes it.
            inputs: shape (batch, H, W, C); integers (batch, T) for sequences.

        Returns:
            Shape (batch, K); (batch, T, K) for sequences.

        Raises:
            ValueError: if the shape of ``inputs`` is another one.
        """
        if self.method == "__call__" and inputs.shape[1:] != self.input_shape:
            expected = ", ".join(map(str, ("batch", *self.input_shape)))
            raise ValueError(
                f"inputs: expected shape ({expected}), got {inputs.shape}; reshape, or inputs[None] for one"
            )
        whole = dataclasses.replace(self, method="__call__")
        return getattr(nnx.merge(_abstract(whole)[0], params), self.method)(inputs)

    def part(self, method: str) -> "ModelFn":
        """Another method of the module as a function of (params, argument), such as the two halves of a model.

        Args:
            method: its name; the transformer has "features" and "scores", as ``losses.chunked_objective`` takes them.

        Returns:
            The function, equal and hashed by value too.

        Raises:
            ValueError: if the module has no such method.
        """
        if not callable(getattr(self.module, method, None)):
            raise ValueError(f"method: expected a method of {self.module.__name__}, got {method!r}")
        return dataclasses.replace(self, method=method)

    def init(self, key: jax.Array) -> PyTree:
        """Initial parameters; to be jitted with ``out_shardings`` where they are to be made on many devices.

        Args:
            key: typed PRNG key.

        Returns:
            Nested dict, string keys, of float32 arrays.
        """
        return nnx.to_pure_dict(nnx.state(self.build(key)))

    def build(self, key: jax.Array) -> nnx.Module:
        """The module itself, with initial weights.

        Args:
            key: typed PRNG key.

        Returns:
            A new module.
        """
        return self.module(self.input_shape, self.num_classes, rngs=_Keys(key), **dict(self.options))


@dataclasses.dataclass(frozen=True, eq=False)
class Model:
    """A network as a pure pair.

    Attributes:
        params: nested dict, string keys, of float32 arrays: all of them are trained.
        apply_fn: ``apply_fn(params, inputs) -> scores``, shapes (batch, H, W, C) -> (batch, K), or (batch, T) ->
            (batch, T, K) for sequences.
    """

    params: PyTree
    apply_fn: ModelFn


def create_model(name: str, key: jax.Array, input_shape: tuple[int, ...], num_classes: int, **options: Any) -> Model:
    """A model with initial parameters.

    There is no batch normalisation and no dropout in any of them: the scores of an example depend on the parameters
    and on that example alone, so that objectives are means of per-example losses and their Hessians mean something.

    Args:
        name: one of ``MODELS``: "mlp", "cnn", "lenet", "resnet18", "vit", "transformer".
        key: typed PRNG key; the same key gives the same parameters.
        input_shape: shape (H, W, C) of one input; (T,) for the transformer.
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
    apply_fn = _model_fn(name, input_shape, num_classes, options)
    check_key("key", key)
    return Model(_init(apply_fn, key), apply_fn)


def abstract_model(name: str, input_shape: tuple[int, ...], num_classes: int, **options: Any) -> Model:
    """A model without its parameters: their shapes alone, so that any size can be planned on any machine.

    Args:
        name: one of ``MODELS``.
        input_shape: as ``create_model`` takes it.
        num_classes: number K of scores.
        **options: of the model.

    Returns:
        Parameters as ``jax.ShapeDtypeStruct``, at the same paths, and the same function.

    Raises:
        ValueError: if the name is unknown, or a shape or the value of an option does not fit.
        TypeError: if an option is unknown, or a number is no integer.

    Example:
        >>> model = abstract_model("transformer", (1024,), 50257, depth=12, width=768, heads=12)
        >>> f"{num_params(model.params):,}"
        '124,439,808'
    """
    apply_fn = _model_fn(name, input_shape, num_classes, options)
    return Model(nnx.to_pure_dict(_abstract(apply_fn)[1]), apply_fn)


def num_params(params: PyTree) -> int:
    """Number of entries of all leaves.

    Args:
        params: pytree of arrays.

    Returns:
        The sum of their sizes.
    """
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))


def _model_fn(name: str, input_shape: Any, num_classes: int, options: dict[str, Any]) -> ModelFn:
    """The function of a model, its arguments checked.

    Args:
        name: one of ``MODELS``.
        input_shape: shape of one input.
        num_classes: number K of scores.
        options: those given.

    Returns:
        The function.

    Raises:
        ValueError: if the name is unknown or the shape has another number of axes.
    """
    module = lookup("model", MODELS, name)
    num_classes = check_positive_int("num_classes", num_classes)
    axes = getattr(module, "input_axes", _IMAGE_AXES)
    if not isinstance(input_shape, tuple | list) or len(input_shape) != len(axes):
        num = len(input_shape) if isinstance(input_shape, tuple | list) else 0
        remedy = "; " + _REMEDIES[2 if num == 2 and len(axes) == 3 else 1]
        raise ValueError(f"input_shape: expected ({', '.join(axes)}), got {input_shape!r} for {name}{remedy}")
    shape = tuple(check_positive_int("input_shape", size) for size in input_shape)
    return ModelFn(module, shape, num_classes, _complete(name, module, options))


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
    return apply_fn.init(key)


@functools.lru_cache(maxsize=256)
def _abstract(apply_fn: ModelFn) -> tuple[nnx.GraphDef, nnx.State]:
    """The module without its arrays, and their shapes, built from shapes alone."""
    return nnx.split(nnx.eval_shape(apply_fn.build, jax.random.key(0)))
