"""What Hessian products and Lanczos steps cost on many devices, from shapes alone: nothing is compiled or run.

``spectral.plan`` asks the compiler and is exact for the devices at hand. This is arithmetic for those that are not:
any number of devices, any number of parameters. It counts one layout, in which every device works on its own share of
the examples and a parameter that is split is gathered where it is used (as in FSDP or ZeRO); a compiler may find a
better one.

- Operations: those of the unoptimized program of one device's share, without the primal where it is stored.
- Memory: parameters, batch, stored or passing activations, vectors and basis, as the fields of ``Cost`` say.
- Communication, in bytes that one device sends around a ring: (g − 1)/g of an array that is gathered from, or scattered
  as a sum over, g devices; twice that for a sum that all of them need. Of each product: the sum of the result over all
  devices that have examples; the vector where it is split, forward and backward; and the parameters likewise, where
  products recompute.
- Orthogonalization reads the basis twice in each step, for one pass over it; its sums over the devices are of at most m
  numbers, of which only the latency counts, which is not in the seconds. A device that works through several batches in
  a product adds them up before it sends, along the axes of the mesh over which no parameter is split: so operators with
  ``microbatch_size`` do, see ``cljax.curvature.microbatch``.
"""

import dataclasses
import functools
import math
from typing import Any

import jax
from jax.sharding import NamedSharding

from cljax import tree
from cljax._checks import check_positive_int
from cljax._typing import PyTree
from cljax.curvature.hessian import Hessian, product_once
from cljax.spectral.driver import _apply
from cljax.spectral.plan_bytes import num_bytes
from cljax.spectral.rates import Rates


@dataclasses.dataclass(frozen=True)
class Cost:
    """Predicted cost of a Lanczos run; bytes and operations are those of one device.

    Attributes:
        num_devices: all of the mesh.
        num_params: entries of a vector.
        num_products: products of the run.
        parameters: bytes of the parameters, split as they are, and of the greatest one as it is gathered.
        batch: bytes of the examples.
        activations: bytes that a product keeps: the primal values that the linearized gradient needs, where they are
            stored, and its own; otherwise twice what reverse mode stores and what the greatest part under
            ``jax.checkpoint`` computes again, for values and tangents. A compiler fuses some of it away; arrays of a
            parameter's shape are taken for the parameter.
        vectors: bytes of four vectors: the one multiplied, the product, and two for the sums behind them.
        basis: bytes of the Krylov basis.
        product_flops: operations of a product.
        product_sent: bytes sent in a product.
        step_read: bytes read in the orthogonalization of an average step.
    """

    num_devices: int
    num_params: int
    num_products: int
    parameters: int
    batch: int
    activations: int
    vectors: int
    basis: int
    product_flops: float
    product_sent: float
    step_read: float

    @property
    def device_bytes(self) -> int:
        """All bytes on a device together."""
        return self.parameters + self.batch + self.activations + self.vectors + self.basis

    def seconds(self, rates: Rates) -> dict[str, float]:
        """Seconds of the whole run, one thing after the other: nothing overlaps.

        Args:
            rates: of one device.

        Returns:
            "compute", "communicate" (NaN where bytes are sent and ``rates.link`` is not known), "orthogonalize" and
            their sum, "total".
        """
        sent = self.product_sent
        link = 0.0 if not sent else sent / rates.link if rates.link is not None else math.nan
        parts = {
            "compute": self.product_flops / rates.flops,
            "communicate": link,
            "orthogonalize": self.step_read / rates.memory,
        }
        parts = {name: self.num_products * value for name, value in parts.items()}
        return {**parts, "total": sum(parts.values())}


def predict_cost(
    op: Hessian,
    *,
    shardings: PyTree = None,
    batch_axes: tuple[str, ...] = ("data",),
    num_passes: int = 1,
    stored: bool = True,
    num_products: int = 100,
    basis_size: int | None = None,
    sharded_basis: bool = False,
) -> Cost:
    """Cost of a Lanczos run on any number of devices, from shapes.

    Args:
        op: Hessian whose leaves are ``jax.ShapeDtypeStruct`` (or arrays), and whose batch is what one device
            differentiates at a time; without ``microbatch_size``.
        shardings: pytree of ``NamedSharding`` like the parameters, on a mesh or a ``jax.sharding.AbstractMesh``, see
            ``parallel.shardings``; None for one device.
        batch_axes: axes of the mesh over which examples are split; devices along others repeat their work.
        num_passes: batches like that of ``op`` that one device works through in each product.
        stored: whether products keep the primal values between them, as they do without ``microbatch_size``; with
            several passes they cannot.
        num_products: products of the run.
        basis_size: vectors kept; None for one more than there are products, 0 for no basis (quadrature).
        sharded_basis: whether the basis of whole parameters is spread over all devices.

    Returns:
        The cost.

    Raises:
        ValueError: if a number is out of range, or values are to be stored over several passes.
        TypeError: if ``op`` is no Hessian or a number is no integer.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from cljax import curvature, spectral
        >>> shape = jax.ShapeDtypeStruct((1000, 1000), jnp.float32)
        >>> op = curvature.hessian(lambda w: jnp.sum(jnp.tanh(w @ w)), shape, method="forward_over_reverse")
        >>> spectral.predict_cost(op, num_products=20).basis
        84000000
    """
    if not isinstance(op, Hessian) or op.microbatches is not None:
        raise TypeError(f"op: expected a Hessian without microbatch_size, got {type(op).__name__}")
    num_passes = check_positive_int("num_passes", num_passes)
    num_products = check_positive_int("num_products", num_products)
    if stored and num_passes > 1:
        raise ValueError(f"stored: expected False with num_passes {num_passes}, got True; they are computed anew")
    if basis_size is not None:
        check_positive_int("basis_size", basis_size, minimum=0)
    params = _placed(op.params, shardings)
    mesh = next((x.sharding.mesh for x in jax.tree.leaves(params) if x.sharding is not None), None)
    num_devices = 1 if mesh is None else mesh.size
    work = [(x, math.prod(x.shape) * tree.work_dtype(x.dtype).itemsize) for x in jax.tree.leaves(params)]
    vector = sum(size // _num(x, mesh) for x, size in work)
    kept = num_products + 1 if basis_size is None else min(basis_size, num_products + 1)
    average = (num_products + 2) / 2 if basis_size is None else kept
    share = vector / num_devices if sharded_basis else vector
    whole = [(num_bytes(_plain(x)), _num(x, mesh)) for x in jax.tree.leaves(params)]
    split = [size for size, num in whole if num > 1]
    bare = jax.tree.map(_plain, op)  # equal shapes are looked at once
    keeps, flops = _of_program(jax.tree.structure(bare), tuple(jax.tree.leaves(bare)), stored)
    sent = sum(_sent(x, size, mesh, batch_axes, num_passes, stored, sharded_basis) for x, size in work)
    return Cost(
        num_devices=num_devices,
        num_params=tree.size(op.params),
        num_products=num_products,
        parameters=num_bytes(params) + 2 * max(split, default=0),
        batch=num_passes * num_bytes(op.args),
        activations=keeps,
        vectors=4 * vector,
        basis=math.ceil(kept * share),
        product_flops=num_passes * flops,
        product_sent=sent,
        step_read=2 * average * share,
    )


def _placed(params: PyTree, shardings: PyTree) -> PyTree:
    if shardings is None:
        return jax.tree.map(_plain, params)
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), params, shardings)


def _plain(x: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype)


def _axes(x: Any) -> list[str]:
    """Axes of the mesh over which a parameter is split."""
    if not isinstance(x.sharding, NamedSharding):
        return []
    entries = [entry if isinstance(entry, tuple) else (entry,) for entry in x.sharding.spec if entry is not None]
    return [name for entry in entries for name in entry]


def _num(x: Any, mesh: Any) -> int:
    return math.prod(mesh.shape[name] for name in _axes(x))


def _sent(x: Any, size: int, mesh: Any, batch: tuple[str, ...], passes: int, stored: bool, sharded: bool) -> float:
    """Bytes that a device sends in a product for one parameter of ``size`` bytes in float32."""
    if mesh is None:
        return 0.0
    axes = _axes(x)
    group = math.prod(mesh.shape[name] for name in axes)
    if sharded and not axes:
        return 2 * (1 - 1 / mesh.size) * size
    scattered = math.prod(mesh.shape[name] for name in axes if name in batch)
    summed = math.prod(mesh.shape[name] for name in batch if name not in axes and name in mesh.shape)
    gathers = 2 * (1 if stored else 2) * (1 - 1 / group) * passes
    return size * (gathers + (1 - 1 / scattered) * passes + 2 * (1 - 1 / summed) / group)


@functools.lru_cache(maxsize=32)
def _of_program(structure: Any, leaves: tuple[Any, ...], stored: bool) -> tuple[int, float]:
    """Bytes that a product keeps, and its operations."""
    op = structure.unflatten(leaves)
    if stored:
        linearized = jax.eval_shape(lambda op: op.linearize(), op)
        keeps, program = _beside(op, linearized), _apply.lower(linearized, op.params)
    else:
        keeps, program = 2 * _reverse_bytes(op), jax.jit(_fresh).lower(op, op.params)
    analysis: Any = program.cost_analysis()
    analysis = analysis[0] if isinstance(analysis, list) else analysis
    return keeps, float(analysis["flops"])


def _fresh(op: Hessian, v: PyTree) -> PyTree:
    return product_once(op.method_used, op.objective_fn, op.params, op.args, v)


def _reverse_bytes(op: Hessian) -> int:
    """What reverse mode stores of the objective, and the most that it computes again at a time."""
    jaxpr = jax.make_jaxpr(lambda params, args: op.objective_fn(params, *args))(op.params, op.args)

    def backward(params: PyTree, args: Any) -> Any:
        return jax.vjp(lambda p: op.objective_fn(p, *args), params)[1]

    again = max((_values(part) for part in _checkpointed(jaxpr.jaxpr)), default=0)
    return _beside(op, jax.eval_shape(backward, op.params, op.args)) + again


def _inner(equation: Any) -> list[Any]:
    """The programs inside of an equation."""
    leaves = jax.tree.leaves(equation.params, is_leaf=lambda x: hasattr(x, "eqns") or hasattr(x, "jaxpr"))
    return [getattr(x, "jaxpr", x) for x in leaves if hasattr(x, "eqns") or hasattr(x, "jaxpr")]


def _checkpointed(jaxpr: Any) -> list[Any]:
    """Programs under ``jax.checkpoint``."""
    found = []
    for equation in jaxpr.eqns:
        inner = _inner(equation)
        found += inner if "prevent_cse" in equation.params else [y for x in inner for y in _checkpointed(x)]
    return found


def _values(jaxpr: Any) -> int:
    """Bytes of all intermediate values."""
    total = 0
    for equation in jaxpr.eqns:
        inner = _inner(equation)
        total += sum(map(_values, inner)) if inner else num_bytes([_plain(v.aval) for v in equation.outvars])
    return total


def _beside(op: Hessian, kept: Any) -> int:
    """Bytes of arrays that are no parameters, nor transposed ones."""
    own = {tuple(sorted(x.shape)) for x in jax.tree.leaves(op.params)}
    arrays = [x for x in jax.tree.leaves(kept) if hasattr(x, "dtype") and tuple(sorted(x.shape)) not in own]
    return num_bytes([_plain(x) for x in arrays])
