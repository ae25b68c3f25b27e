"""Frozen dataclasses that are JAX pytrees: array fields are leaves, fields made by ``static()`` belong to the type."""

import dataclasses
from typing import Any, TypeVar, dataclass_transform

import jax

T = TypeVar("T")


def static(**kwargs: Any) -> Any:
    """Declare a dataclass field of the tree structure: hashable, compared by value when jit caches."""
    return dataclasses.field(metadata={"static": True}, **kwargs)


@dataclass_transform(frozen_default=True, field_specifiers=(dataclasses.field, static))
def pytree_dataclass(cls: type[T]) -> type[T]:
    """Make ``cls`` a frozen dataclass and register it with JAX.

    Equality stays by identity of the fields' containers (``eq=False``): comparing arrays has no single truth value.

    Args:
        cls: a class with annotated fields.

    Returns:
        The registered class.
    """
    data_cls = dataclasses.dataclass(frozen=True, eq=False)(cls)
    fields = dataclasses.fields(data_cls)  # type: ignore[arg-type]
    meta = [f.name for f in fields if f.metadata.get("static", False)]
    data = [f.name for f in fields if f.name not in meta]
    jax.tree_util.register_dataclass(data_cls, data_fields=data, meta_fields=meta)
    return data_cls
