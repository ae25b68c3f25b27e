"""``jax.jit`` for this library's own small programs, which take longer to compile than to run.

XLA's CPU backend spends most of a small program's compilation on how fast each of its loops will be; what these
programs spend their time on, products with a basis, is not decided there. Programs with a user's own function in them
are compiled as they come.
"""

import functools
import os
import threading
import types
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import get_opaque_trace_state

_WISHES = {"xla_backend_optimization_level": 1, "xla_cpu_use_fusion_emitters": False}
"""Options of XLA's CPU backend; not all of its versions have all, and those that ``XLA_FLAGS`` names are the user's."""


class QuickJit:
    """``jax.jit(fn, **options)``, compiled in less time on a CPU outside of all transformations.

    Args:
        fn: a function of this library.
        **options: of ``jax.jit``.
    """

    def __init__(self, fn: Callable[..., Any], **options: Any) -> None:
        functools.update_wrapper(self, fn)
        self._plain = jax.jit(fn, **options)
        self._make = functools.cache(lambda: jax.jit(fn, compiler_options=_understood(), **options))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._chosen()(*args, **kwargs)

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        return self if instance is None else types.MethodType(self, instance)

    def lower(self, *args: Any, **kwargs: Any) -> jax.stages.Lowered:
        """As that of a function of ``jax.jit``."""
        return self._chosen().lower(*args, **kwargs)

    def _chosen(self) -> Any:
        if get_opaque_trace_state(convention="cljax") != _outside():  # only the outermost program may have options
            return self._plain
        return self._make() if jax.default_backend() == "cpu" else self._plain


def quick_jit(fn: Callable[..., Any] | None = None, **options: Any) -> Any:
    """``QuickJit``, as a function or, with options alone, as a decorator.

    Args:
        fn: a function of this library, or None.
        **options: of ``jax.jit``.

    Returns:
        The compiled function, or a decorator.
    """
    return functools.partial(QuickJit, **options) if fn is None else QuickJit(fn, **options)


@functools.cache
def _outside() -> Any:
    """The state of a thread in which nothing is traced."""
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(get_opaque_trace_state(convention="cljax")))
    thread.start()
    thread.join()
    return found[0]


@functools.cache
def _understood() -> dict[str, Any]:
    """The options as far as nobody has set them and this backend has them: an unknown one is an error."""
    free = {name: value for name, value in _WISHES.items() if name not in os.environ.get("XLA_FLAGS", "")}
    return free if _compiles(free) else {name: value for name, value in free.items() if _compiles({name: value})}


def _compiles(options: dict[str, Any]) -> bool:
    try:
        jax.jit(lambda x: x, compiler_options=options).lower(jax.ShapeDtypeStruct((), jnp.float32)).compile()
    except jax.errors.JaxRuntimeError:
        return False
    return True
