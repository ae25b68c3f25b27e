"""Methods of regularizers as programs."""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import jax

Method = TypeVar("Method", bound=Callable[..., Any])


def one_program(method: Method) -> Method:
    """A method that is one compiled program where it is called outside of jit, not one for each operation.

    A loop among the operations would be compiled anew at each call, as its body is a new function each time. Inside of
    jit nothing changes: the operations go into the caller's program as they are.

    Args:
        method: of an object that is hashable, with arrays as its other arguments.

    Returns:
        The method.
    """
    return cast(Method, jax.jit(method, static_argnums=0, inline=True))
