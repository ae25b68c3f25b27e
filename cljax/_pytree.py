"""Frozen dataclasses that are JAX pytrees: array fields are leaves, fields made by ``static()`` belong to the type."""

import dataclasses
from typing import Any, TypeVar, dataclass_transform

import jax
from jax.tree_util import GetAttrKey

T = TypeVar("T")


def static(**kwargs: Any) -> Any:
    """Declare a dataclass field of the tree structure: hashable, compared by value when jit caches."""
    return dataclasses.field(metadata={"static": True}, **kwargs)


@dataclass_transform(frozen_default=True, field_specifiers=(dataclasses.field, static))
def pytree_dataclass(cls: type[T]) -> type[T]:
    """Make ``cls`` a frozen dataclass and register it with JAX.

    Equality stays by identity of the fields' containers (``eq=False``): comparing arrays has no single truth value.
    The class itself is part of the static data: the tree structures of two classes that JAX registers as dataclasses
    compare equal where their fields do, and a jit cache may then run the program of one on the other.

    Args:
        cls: a class with annotated fields.

    Returns:
        The registered class.
    """
    data_cls = dataclasses.dataclass(frozen=True, eq=False)(cls)
    fields = dataclasses.fields(data_cls)  # type: ignore[arg-type]
    meta = [f.name for f in fields if f.metadata.get("static", False)]
    data = [f.name for f in fields if f.name not in meta]
    keys = [GetAttrKey(name) for name in data]

    def flatten(node: T) -> tuple[list[Any], tuple[Any, ...]]:
        return [getattr(node, name) for name in data], (data_cls, *(getattr(node, name) for name in meta))

    def flatten_with_keys(node: T) -> tuple[list[Any], tuple[Any, ...]]:
        children, aux = flatten(node)
        return list(zip(keys, children, strict=True)), aux

    def unflatten(aux: tuple[Any, ...], children: Any) -> T:
        return data_cls(**dict(zip(data, children, strict=True)), **dict(zip(meta, aux[1:], strict=True)))

    jax.tree_util.register_pytree_with_keys(data_cls, flatten_with_keys, unflatten, flatten)
    return data_cls
