"""Where each parameter goes on a mesh: by what its model says, by rules on its path, or spread over an axis."""

import re
from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from cljax._typing import PyTree
from cljax.parallel.mesh import DATA_AXIS
from cljax.parallel.placement import put_whole

FSDP = "fsdp"
LEAST_SIZE = 1024
"""Entries below which ``fsdp`` leaves a parameter whole: moving it would take longer than holding it."""

Rule = str | tuple[str, str | PartitionSpec | Sequence[Any] | None]


def shardings(
    params: PyTree, mesh: Mesh | AbstractMesh, rules: Sequence[Rule] = (), *, logical_axes: Any = None
) -> PyTree:
    """A ``NamedSharding`` for each parameter.

    What a model says itself comes first: a leaf with Flax partitioning metadata (Linen's ``Partitioned``, an NNX
    variable with sharding names) is split as that says. For all others the first rule whose pattern is found in
    the path decides; where none is, the parameter is whole on every device.

    A rule is a pair (pattern, spec), or the string "PATTERN=SPEC" for a command line:

    - the pattern is a regular expression, searched for in the path with "/" between its parts, as in
      "layers/0/kernel";
    - the spec names a mesh axis for each axis of the parameter: a PartitionSpec, or a string such as ",model" for
      PartitionSpec(None, "model"). Empty words stand for axes that are not split, "data+model" for an axis that is
      split over both, and an empty spec for a parameter that is not split at all;
    - "fsdp" as spec, or "fsdp:AXIS" or "fsdp:AXIS+AXIS", splits the longest axis of the parameter that can be divided
      over the mesh axis "data" or those named, and leaves parameters of fewer than ``LEAST_SIZE`` entries, and those
      of which no axis can be divided, whole. As a whole rule, "fsdp" is meant for every parameter: ".*=fsdp".

    Args:
        params: pytree of arrays or ``jax.ShapeDtypeStruct``, or of Flax's boxes around them.
        mesh: the devices, or an abstract mesh.
        rules: see above.
        logical_axes: pairs (name in the metadata, mesh axis or None), where models name axes after what they are; what
            they do not name and the mesh does not have is not split.

    Returns:
        A pytree of shardings like ``params``, with boxes taken off.

    Raises:
        ValueError: if a rule cannot be read, names an axis that the mesh does not have or uses one twice, or the axis
            of a parameter cannot be divided.
        TypeError: if ``rules`` is no list, or a rule is neither a string nor a pair.

    Example:
        >>> import jax.numpy as jnp
        >>> from cljax import parallel
        >>> mesh = parallel.make_mesh("data=1,model=1")
        >>> placed = parallel.shardings({"dense": {"kernel": jnp.ones((4, 6))}}, mesh, ["kernel=,model"])
        >>> tuple(placed["dense"]["kernel"].spec)
        (None, 'model')
    """
    if isinstance(rules, str):
        raise TypeError(f"rules: expected a list of rules, got the string {rules!r}; write [{rules!r}]")
    read = [_read(rule, mesh) for rule in rules]
    names = dict(logical_axes or ())

    def leaf(path: Any, x: Any) -> NamedSharding:
        where = "/".join(str(_key(part)) for part in path)
        value, said = _unboxed(x)
        if said is not None:
            spec = PartitionSpec(*(_mesh_axes(entry, names, mesh) for entry in said))
        else:
            spec = next((_resolved(spec, value, mesh) for pattern, spec in read if pattern.search(where)), _WHOLE)
        _check(where, value, spec, mesh)
        return NamedSharding(mesh, spec)

    return jax.tree_util.tree_map_with_path(leaf, params, is_leaf=_is_box)


def shard_params(params: PyTree, mesh: Mesh, rules: Sequence[Rule] = (), *, logical_axes: Any = None) -> PyTree:
    """Parameters on the devices of a mesh, see ``shardings``.

    Args:
        params: pytree of arrays, or of Flax's boxes around them.
        mesh: the devices.
        rules: as for ``shardings``.
        logical_axes: as for ``shardings``.

    Returns:
        Arrays, with boxes taken off.

    Raises:
        ValueError: as for ``shardings``.
        TypeError: as for ``shardings``.

    Example:
        >>> import jax.numpy as jnp
        >>> from cljax import parallel
        >>> mesh = parallel.make_mesh("data=1")
        >>> tuple(parallel.shard_params({"w": jnp.ones((64, 32))}, mesh, ["fsdp"])["w"].sharding.spec)
        ('data',)
    """
    places = shardings(params, mesh, rules, logical_axes=logical_axes)
    values = jax.tree.map(lambda x: _unboxed(x)[0], params, is_leaf=_is_box)
    return put_whole(values, places)


_WHOLE = PartitionSpec()
_NNX_NAMES = ("out_sharding", "sharding_names", "sharding")


def _read(rule: Rule, mesh: Mesh | AbstractMesh) -> tuple[re.Pattern[str], Any]:
    if isinstance(rule, str):
        pattern, equals, spec = (".*", "=", rule) if _is_fsdp(rule) else rule.rpartition("=")
        if not equals or not pattern:
            raise ValueError(f"rules: expected PATTERN=SPEC, got {rule!r}; for example kernel=,model, or fsdp")
    elif isinstance(rule, tuple | list) and len(rule) == 2 and isinstance(rule[0], str):
        pattern, spec = rule  # type: ignore[assignment]
    else:
        raise TypeError(f"rules: expected a string or a pair (pattern, spec), got {rule!r}; for example kernel=,model")
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ValueError(f"rules: expected a regular expression, got {pattern!r} ({error})") from None
    if isinstance(spec, str) and _is_fsdp(spec):
        entries: Any = [_entry(spec.partition(":")[2]) or ("",)] if ":" in spec else [(DATA_AXIS,)]
        kind = FSDP
    else:
        entries = spec.split(",") * bool(spec.strip()) if isinstance(spec, str) else list(spec or ())
        if not all(entry is None or isinstance(entry, str | tuple | list) for entry in entries):
            raise TypeError(f"rules: expected names of mesh axes or None in a spec, got {spec!r} for {pattern!r}")
        entries, kind = [_entry(entry) for entry in entries], ""
    used = [name for entry in entries for name in entry]
    for name in used:
        if name not in mesh.axis_names:
            raise ValueError(
                f"rules: expected axes of the mesh, {', '.join(mesh.axis_names)}, got {name!r} in {rule!r}; "
                f"give it that axis, if with length 1: {name}=1"
            )
    if len(set(used)) < len(used):
        raise ValueError(f"rules: expected each axis of the mesh once, got {rule!r}")
    return compiled, (FSDP, entries[0]) if kind else PartitionSpec(*(entry or None for entry in entries))


def _is_fsdp(spec: str) -> bool:
    return spec == FSDP or spec.startswith(FSDP + ":")


def _entry(entry: Any) -> tuple[str, ...]:
    if entry is None:
        return ()
    if isinstance(entry, str):
        return tuple(name.strip() for name in entry.split("+") if name.strip())
    return tuple(entry)


def _resolved(spec: Any, x: Any, mesh: Mesh | AbstractMesh) -> PartitionSpec:
    if isinstance(spec, PartitionSpec):
        return spec
    axes, shape = spec[1], x.shape
    num = _num(axes, mesh)
    whole = [(length, -axis) for axis, length in enumerate(shape) if length % num == 0]
    if not whole or x.size < LEAST_SIZE:
        return _WHOLE
    axis = -max(whole)[1]
    return PartitionSpec(*(None,) * axis, axes if len(axes) > 1 else axes[0])


def _check(where: str, x: Any, spec: PartitionSpec, mesh: Mesh | AbstractMesh) -> None:
    if len(spec) > x.ndim:
        raise ValueError(f"{where}: expected a spec for at most {x.ndim} axes of shape {x.shape}, got {spec}")
    for axis, entry in enumerate(spec):
        num = _num(_entry(entry), mesh)
        if x.shape[axis] % num:
            raise ValueError(
                f"{where}: expected axis {axis} of shape {x.shape} to be a multiple of {num} for {spec}, "
                f"got {x.shape[axis]}; give it another rule"
            )


def _num(axes: Sequence[str], mesh: Mesh | AbstractMesh) -> int:
    num = 1
    for name in axes:
        num *= mesh.shape[name]
    return num


def _key(part: Any) -> Any:
    return next(getattr(part, name) for name in ("key", "name", "idx") if hasattr(part, name))


def _is_box(x: Any) -> bool:
    """Whether a leaf is one of Flax's boxes; told by what it has, as Flax need not be there."""
    return hasattr(x, "get_partition_spec") or hasattr(x, "get_metadata")


def _unboxed(x: Any) -> tuple[Any, Any]:
    """The array of a leaf, and the axis names that its metadata have for it, or None."""
    if hasattr(x, "get_partition_spec"):
        return x.unbox(apply_constraint=False) if hasattr(x, "unbox") else x.value, tuple(x.get_partition_spec())
    if hasattr(x, "get_metadata"):
        metadata = x.get_metadata()
        said = next((metadata[name] for name in _NNX_NAMES if metadata.get(name)), None)
        return x.get_value() if hasattr(x, "get_value") else x.value, None if said is None else tuple(said)
    return x, None


def _mesh_axes(entry: Any, names: dict[str, Any], mesh: Mesh | AbstractMesh) -> Any:
    found: list[str] = []
    for name in _entry(entry):
        found += _entry(names[name]) if name in names else [name] * (name in mesh.axis_names)
    return (found[0] if len(found) == 1 else tuple(found)) or None
