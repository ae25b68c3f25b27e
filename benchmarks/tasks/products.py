"""One product, against PyTorch's peers, and the gradient energy."""

import functools
from typing import Any

import jax
import numpy as np

from benchmarks.cases import Case
from benchmarks.estimators.energies import squared_norms
from benchmarks.estimators.products import KINDS, reference_product
from benchmarks.networks import Spec, as_case, network_case, trajectory
from benchmarks.tasks.base import Group, Task, relative_error

_DEEP = (("depth", 4), ("width", 128), ("heads", 4))

SPECS: dict[str, dict[str, Spec]] = {
    "mlp": {
        "tiny": Spec("mlp", (("hidden", (4,)),), "random", 8, input_shape=(4, 4, 1)),
        "small": Spec("mlp", (("hidden", (512, 512)),), "random", 2048, input_shape=(28, 28, 1)),
        "full": Spec("mlp", (("hidden", (2048, 2048)),), "random", 16384, input_shape=(28, 28, 1)),
    },
    "lenet": {
        "small": Spec("lenet", (), "random", 1024, input_shape=(28, 28, 1)),
        "full": Spec("lenet", (), "random", 8192, input_shape=(28, 28, 1)),
    },
    "resnet18": {
        "small": Spec("resnet18", (), "random", 16, input_shape=(32, 32, 3)),
        "full": Spec("resnet18", (), "random", 256, input_shape=(32, 32, 3)),
    },
    "vit": {
        "small": Spec("vit", (("dim", 96), ("depth", 3), ("heads", 3)), "random", 64, input_shape=(32, 32, 3)),
        "full": Spec("vit", (), "random", 512, input_shape=(32, 32, 3)),
    },
    "transformer": {
        "tiny": Spec("transformer", (("depth", 1), ("width", 4), ("heads", 1)), "text", 4, context=8),
        "small": Spec("transformer", _DEEP, "text", 16, context=64),
        "full": Spec("transformer", (("depth", 12), ("width", 768), ("heads", 12)), "text", 16, context=256),
    },
}
"""Networks at initialization, on random images or on text, at sizes where a product takes from milliseconds to seconds.
The MLP has 669,706 parameters and the ResNet-18 11,173,962."""


def _initial_case(name: str, size: str) -> Case:
    return as_case(trajectory(SPECS[name][size], (0,))[0], name, "init")


def _groups(size: str) -> list[Group]:
    return [
        Group(name, lambda name=name: _initial_case(name, size), kind.replace("_", "-"), {"kind": kind})
        for name, sizes in SPECS.items()
        for kind in KINDS
        if size in sizes and (kind != "fisher" or name == "mlp")
    ]


@functools.lru_cache(maxsize=1)
def _exact(case: Case, kind: str) -> np.ndarray:
    vector = np.random.default_rng(0).standard_normal(case.dimension).astype(np.float32)
    return reference_product(case.network, kind, vector)


def _score(answer: Any, case: Case, group: Group) -> dict[str, float]:
    exact = _exact(case, group.options["kind"])
    return {"error": relative_error(answer, exact)}


PEER_PRODUCTS = Task(
    "peer_products",
    "one product with a Hessian, Gauss-Newton or Fisher matrix; error: relative, to float64",
    _groups,
    _score,
)


def _energy_groups(size: str) -> list[Group]:
    names = {"tiny": ("mlp",), "small": ("mlp", "lenet", "vit", "transformer"), "full": ("mlp", "lenet")}[size]
    return [Group(f"{name} end", lambda name=name: network_case(name, size)) for name in names]


def _energy_score(answer: Any, case: Case, group: Group) -> dict[str, float]:
    with jax.enable_x64(True):
        net = case.network.in_double()
        norms = jax.jit(lambda p, x, y: squared_norms(net, p, x, y))(net.params, net.batch.inputs, net.batch.targets)
        exact = float(np.mean(np.asarray(norms)))
    return {"error": abs(float(answer) - exact) / exact}


GRADIENT_ENERGY = Task(
    "gradient_energy", "mean squared norm of per-example gradients; error: relative", _energy_groups, _energy_score
)
