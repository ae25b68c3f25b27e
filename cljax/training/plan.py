"""Plans of curvature runs of models on meshes that need not exist, from shapes alone."""

import dataclasses
import math
from typing import Any, Literal

import jax
import jax.numpy as jnp

from cljax import losses
from cljax._batch import Batch
from cljax._checks import check_positive_int
from cljax._registry import lookup
from cljax._typing import PyTree
from cljax.curvature.hessian import hessian
from cljax.parallel.mesh import abstract_mesh, batch_axes, num_shares
from cljax.parallel.rules import shardings
from cljax.spectral.cost import Cost, predict_cost
from cljax.spectral.rates import Rates
from cljax.training.models import abstract_model
from cljax.training.models.transformer import SIZES
from cljax.training.run import parse_options

MODES = ("all", "restarted", "sharded", "none")


@dataclasses.dataclass(frozen=True)
class PlanConfig:
    """What is to be planned: a Lanczos run with the Hessian of a model's cross-entropy.

    Attributes:
        model: mlp, cnn, lenet, resnet18, vit or transformer.
        size: of the transformer, 124M, 1.3B, 7B or 70B; sets depth, width and heads.
        model_option: further options of the model as NAME=VALUE, for example remat=True.
        input_shape: shape of one input, height width channels, or the context of a transformer.
        num_classes: scores of the model, or its vocabulary.
        batch_size: examples in the objective, all devices together.
        microbatch_size: examples that a device differentiates at a time, computing all anew in each product; where not
            given, its whole share, with what can be is stored between products.
        mesh: axes of the devices with their lengths, such as data=64 or data=16,model=4.
        shard: rules of the form PATTERN=SPEC for where parameters go, or fsdp; whole on every device where not given.
        dtype: of the parameters.
        num_products: products of the run.
        basis_size: vectors kept in the restarted mode.
        flops_rate: floating-point operations a second of one device; measured here where not given.
        memory_rate: bytes a second read from the memory of one device; measured here where not given.
        link_rate: bytes a second that one device sends; measured here, where there are several devices, together with
            the other two.
        device_memory: bytes of one device; nothing is said about what fits where not given.
    """

    model: str = "transformer"
    size: str | None = None
    model_option: tuple[str, ...] = ()
    input_shape: tuple[int, ...] = (1024,)
    num_classes: int = 50257
    batch_size: int = 8
    microbatch_size: int | None = None
    mesh: str = "data=1"
    shard: tuple[str, ...] = ()
    dtype: Literal["float32", "bfloat16"] = "float32"
    num_products: int = 90
    basis_size: int = 20
    flops_rate: float | None = None
    memory_rate: float | None = None
    link_rate: float | None = None
    device_memory: float | None = None

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            ValueError: if one is out of range, or a name is not known.
            TypeError: if a number is no integer.
        """
        for name in ("num_classes", "batch_size", "num_products", "basis_size"):
            check_positive_int(name, getattr(self, name))
        if self.microbatch_size is not None:
            check_positive_int("microbatch_size", self.microbatch_size)
        lookup("dtype", {"float32": 0, "bfloat16": 0}, self.dtype)
        if self.size is not None:
            lookup("size", SIZES, self.size)
            if self.model != "transformer":
                raise ValueError(f"size: expected none for {self.model}, got {self.size}; give its --model-option")
        if self.device_memory is not None and not 0 < self.device_memory < math.inf:
            raise ValueError(f"device_memory: expected a positive finite number, got {self.device_memory}")


@dataclasses.dataclass(frozen=True)
class PlannedRun:
    """One way to run, and its cost.

    Attributes:
        mode: how the basis is kept: "all" vectors, "restarted" with few, "sharded" over all devices (whole parameters
            only), or "none" (quadrature only).
        cost: on one device.
        fits: whether its bytes are within the memory; None where that is not known.
    """

    mode: str
    cost: Cost
    fits: bool | None


def plan_run(config: PlanConfig) -> list[PlannedRun]:
    """Costs of each way to keep the basis; nothing is compiled or run.

    Args:
        config: what is to be planned.

    Returns:
        The ways that there are for these parameters, in the order of ``MODES``.

    Raises:
        ValueError: if a name, option, mesh or rule is wrong.
        TypeError: if an option is of the wrong type.

    Example:
        >>> from cljax import training
        >>> config = training.PlanConfig(size="124M", mesh="data=8", shard=("fsdp",))
        >>> [(way.mode, way.cost.basis // 10**6) for way in training.plan_run(config)]
        [('all', 5688), ('restarted', 1250), ('none', 0)]
    """
    options = dict(SIZES[config.size]) if config.size else {}
    options |= parse_options(config.model_option)
    model = abstract_model(config.model, config.input_shape, config.num_classes, **options)
    params: PyTree = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, jnp.dtype(config.dtype)), model.params)
    mesh = abstract_mesh(config.mesh)
    share = -(-config.batch_size // num_shares(mesh))
    at_a_time = share if config.microbatch_size is None else min(config.microbatch_size, share)
    objective_fn = losses.objective(model.apply_fn, losses.fenchel_young(losses.shannon()))
    op = hessian(objective_fn, params, _batch(config, at_a_time), method="forward_over_reverse")
    places = shardings(params, mesh, config.shard)
    whole = all(not any(place.spec) for place in jax.tree.leaves(places))
    shared: dict[str, Any] = {
        "shardings": places,
        "batch_axes": batch_axes(mesh),
        "num_passes": -(-share // at_a_time),
        "stored": config.microbatch_size is None,
        "num_products": config.num_products,
    }
    ways: dict[str, dict[str, Any]] = {
        "all": {},
        "restarted": {"basis_size": config.basis_size},
        "sharded": {"sharded_basis": True},
        "none": {"basis_size": 0},
    }
    if not whole or mesh.size == 1:
        del ways["sharded"]
    costs = {mode: predict_cost(op, **shared, **options) for mode, options in ways.items()}
    limit = config.device_memory
    return [
        PlannedRun(mode, cost, None if limit is None else cost.device_bytes <= limit) for mode, cost in costs.items()
    ]


def plan_rates(config: PlanConfig, measured: Rates | None) -> Rates:
    """The rates of a configuration, measured ones where it has none.

    Args:
        config: what is planned.
        measured: of the devices at hand; None only where the configuration has rates of operations and memory.

    Returns:
        Rates of one device.
    """
    values = {"flops": config.flops_rate, "memory": config.memory_rate, "link": config.link_rate}
    given = {name: value for name, value in values.items() if value is not None}
    return Rates(**given) if measured is None else dataclasses.replace(measured, **given)


def _batch(config: PlanConfig, num: int) -> Batch:
    tokens = len(config.input_shape) == 1
    shape = (num, *config.input_shape)
    inputs = jax.ShapeDtypeStruct(shape, jnp.int32 if tokens else jnp.float32)
    targets = jax.ShapeDtypeStruct(shape if tokens else (num,), jnp.int32)
    return Batch(inputs, targets, jax.ShapeDtypeStruct(targets.shape, jnp.float32))
