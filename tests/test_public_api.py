"""Everything public is there, documented, and its examples run."""

import doctest
import importlib
import inspect
import pkgutil

import pytest

import cljax
from cljax import curvature, losses, parallel, spectral, theory, training, tree

PUBLIC = [cljax, losses, curvature, spectral, theory, parallel, training]
NAMES = [(module, name) for module in PUBLIC for name in module.__all__]
MODULES = [info.name for info in pkgutil.walk_packages(cljax.__path__, "cljax.") if not info.name.endswith("__main__")]

CONTRACT = {
    losses: "shannon squared sparsemax tsallis bernoulli poisson power fenchel_young conjugate chunked_objective",
    curvature: "hessian gauss_newton chunked_gauss_newton streamed jacobian tangent_kernel structure_matrix "
    "structure_report FunctionOperator to_dense to_scipy to_lineax fisher compose restrict precondition shift "
    "check_operator",
    spectral: "lanczos extreme_eigenpairs HostLoop Memory plan spectral_density Estimate trace diagonal "
    "frobenius_norm apply_function "
    "chebyshev_density log_determinant eigenvalue_count block_densities",
    theory: "gradient_energy structure_extremes risk_bounds conditional_entropy sgd_ledger generalization_bounds",
    training: "Tracker fit resume preconditioner",
    cljax: "Batch losses curvature spectral theory training",
}


@pytest.mark.parametrize("module", CONTRACT, ids=lambda module: module.__name__)
def test_contract(module):
    for name in CONTRACT[module].split():
        assert name in module.__all__
        assert hasattr(module, name)


def ids(value):
    return value if isinstance(value, str) else value.__name__


@pytest.mark.parametrize(("module", "name"), NAMES, ids=ids)
def test_documented(module, name):
    thing = getattr(module, name)
    text = inspect.getdoc(thing)
    assert text
    if inspect.isfunction(thing):
        assert "Returns:" in text
        if inspect.signature(thing).parameters:
            assert "Args:" in text


@pytest.mark.parametrize("name", [f"{m.__name__}.{n}" for m, n in NAMES if inspect.isfunction(getattr(m, n))])
def test_functions_have_an_example(name):
    exempt = {"cljax.training.resume", "cljax.curvature.to_scipy", "cljax.curvature.to_lineax"}
    exempt |= {"cljax.parallel.replicate", "cljax.parallel.shard_batch"}
    module, function = name.rsplit(".", 1)
    assert name in exempt or ">>>" in inspect.getdoc(getattr(importlib.import_module(module), function))


@pytest.mark.fast
@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_tree_is_documented():
    functions = inspect.getmembers(tree, inspect.isfunction)
    assert all(inspect.getdoc(function) for name, function in functions if not name.startswith("_"))
