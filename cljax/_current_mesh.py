"""The mesh in use, for programs on arrays whose shardings are part of their types.

On a mesh with Explicit axes JAX takes arrays that a program makes by itself for arrays of another mesh unless the mesh
is set; on others nothing is to be done.
"""

import contextlib
from typing import Any

import jax
from jax.sharding import AxisType, NamedSharding

from cljax._typing import PyTree


def on_its_mesh(struct: PyTree) -> contextlib.AbstractContextManager[Any]:
    """Set the mesh of some vectors while a program on them is called.

    Args:
        struct: shapes and shardings of the vectors.

    Returns:
        A context; it does nothing where no axis of the mesh is Explicit, a mesh is set already, or in a trace.
    """
    meshes = [x.sharding.mesh for x in jax.tree.leaves(struct) if isinstance(x.sharding, NamedSharding)]
    explicit = [mesh for mesh in meshes if AxisType.Explicit in mesh.axis_types and isinstance(mesh, jax.sharding.Mesh)]
    if not explicit or not jax.sharding.get_abstract_mesh().empty:
        return contextlib.nullcontext()
    return jax.set_mesh(explicit[0])
