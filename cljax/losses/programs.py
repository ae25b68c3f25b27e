"""Methods of regularizers as programs."""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import jax

Method = TypeVar("Method", bound=Callable[..., Any])


def one_program(method: Method) -> Method:
    """A method that is one compiled program where it is called outside of jit, not one for each operation.

    The first call of α-entmax by bisection compiled 60 programs, and its loop again at each later one. Inside of jit
    nothing changes: the operations go into the caller's program as they are.

    Args:
        method: of an object that is hashable, with arrays as its other arguments.

    Returns:
        The method.
    """
    return cast(Method, jax.jit(method, static_argnums=0, inline=True))
