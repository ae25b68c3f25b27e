"""Look-up by name in a registry, with the nearest name in the error."""

import difflib
from collections.abc import Mapping
from typing import Any, TypeVar

T = TypeVar("T")


def lookup(kind: str, registry: Mapping[str, T], name: Any) -> T:
    """The entry of ``registry`` called ``name``.

    Args:
        kind: what the registry holds ("dataset", "model"): the argument named by the message.
        registry: entries by name.
        name: the name asked for.

    Returns:
        ``registry[name]``.

    Raises:
        ValueError: if there is no such name; the message lists the names and the nearest one.
    """
    if isinstance(name, str) and name in registry:
        return registry[name]
    raise ValueError(f"{kind}: expected one of {', '.join(registry)}; got {name!r}{did_you_mean(registry, name)}")


def did_you_mean(names: Any, name: Any) -> str:
    """The end of a message: the nearest of ``names``, or nothing where none is near.

    Args:
        names: an iterable of the known names.
        name: the unknown one.

    Returns:
        ``"; did you mean 'x'?"`` or the empty string.
    """
    spelled = str(name).lower().replace("-", "_")
    near = difflib.get_close_matches(spelled, list(names), n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else ""
