"""Plots: what is drawn is what the rows say, with axes that name their units, whatever the rows lack."""

import math

import numpy as np
import pytest

from cljax import plots
from cljax.training import RunConfig

pytestmark = pytest.mark.fast


def row(step, *, num_top=2, num_bottom=1, accurate=True, **changes):
    found = {
        "step": step,
        "learning_rate": 0.1 * (1 - step / 4),
        "train_loss": 2.0 / (1 + step),
        "test_loss": 2.5 / (1 + step),
        "train_accuracy": 0.5,
        "test_accuracy": 0.4,
        "gradient_norm": 0.3,
        "gradient_energy": 1.5,
        "hessian_top": [5.0 + step, 3.0][:num_top],
        "hessian_top_status": ["tracked" if accurate else "budget", "converged"][:num_top],
        "hessian_bottom": [-0.5][:num_bottom],
        "hessian_bottom_status": ["likely"][:num_bottom],
        "gauss_newton_top": 4.5,
        "structure_min": 0.1,
        "structure_max": 9.0,
    }
    return found | changes


ROWS = [row(step) for step in range(5)]


@pytest.fixture
def figures(monkeypatch, tmp_path):
    """Draw rows; figures by the name of their file."""
    found = {}
    save = plots._save
    monkeypatch.setattr(plots, "_save", lambda figure, path: found.update({path.name: figure}) or save(figure, path))

    def draw(rows, **settings):
        paths = plots.plot_run(rows, tmp_path, RunConfig(**settings))
        assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths)
        assert not list(tmp_path.glob("*.partial"))
        return found

    return draw


def lines(ax):
    return {line.get_label(): line for line in ax.get_lines()}


def test_eigenvalues_and_thresholds_are_those_of_the_rows(figures):
    top, bottom = figures(ROWS)["eigenvalues.png"].axes
    drawn = lines(top)
    np.testing.assert_array_equal(drawn["Hessian, greatest 2"].get_ydata(), [5, 6, 7, 8, 9])
    rates = np.array([row["learning_rate"] for row in ROWS[:4]])
    np.testing.assert_allclose(drawn["2/lr"].get_ydata()[:4], 2 / rates)
    np.testing.assert_allclose(drawn["(2+2β)/lr"].get_ydata()[:4], 3.8 / rates)
    assert math.isnan(drawn["2/lr"].get_ydata()[4]), "a rate of 0 has no threshold"
    assert -0.5 in lines(bottom)["Hessian, least"].get_ydata()
    assert "(2+2β)/lr" not in lines(figures(ROWS, momentum=0.0)["eigenvalues.png"].axes[0])


def test_axes_name_their_units(figures):
    found = figures(ROWS)
    for name, units in {
        "loss.png": ["[nats]", "[%]"],
        "eigenvalues.png": ["[loss / parameter²]"],
        "structure.png": ["[score² / parameter²]", "[loss² / parameter²]"],
    }.items():
        labels = " ".join(ax.get_ylabel() for ax in found[name].axes)
        assert all(unit in labels for unit in units)
        assert found[name].axes[-1].get_xlabel().startswith("step")
        assert "digits, mlp" in found[name].axes[0].get_title(loc="left")


def test_what_did_not_converge_is_marked(figures):
    top = figures([row(0), row(1, accurate=False), row(2)])["eigenvalues.png"].axes[0]
    (marked,) = [line for line in top.get_lines() if line.get_marker() == "x" and len(line.get_xdata())]
    assert (marked.get_xdata().tolist(), marked.get_ydata().tolist()) == ([1], [6.0])


def test_the_unit_of_the_loss_is_that_of_its_regularizer(figures):
    assert "[score²]" in figures(ROWS, loss="squared")["loss.png"].axes[0].get_ylabel()


@pytest.mark.parametrize(
    "rows",
    [
        ROWS[:1],
        [row(step, num_bottom=0) for step in range(3)],
        [row(step, num_top=0) for step in range(3)],
        [row(step, hessian_top=[-1.0, -2.0]) for step in range(3)],
        [row(0), row(1, train_loss=math.nan, hessian_top=[math.nan] * 2, accurate=False), row(2)],
        [row(0), row(1, hessian_top=[math.inf, 3.0], gauss_newton_top=math.inf)],
        [row(step, learning_rate=0.0) for step in range(2)],
        [row(0, learning_rate=1e-320), row(1)],
        [row(step, structure_min=-1e-9) for step in range(2)],
        [{name: value for name, value in row(0).items() if not name.startswith(("structure", "gauss"))}],
    ],
    ids=[
        "one",
        "no-bottom",
        "no-top",
        "negative",
        "nan",
        "infinite",
        "rate-0",
        "rate-subnormal",
        "singular",
        "no-structure",
    ],
)
def test_rows_that_lack_something_still_draw(figures, rows):
    assert figures(rows).keys() == {"loss.png", "eigenvalues.png", "structure.png"}


def test_no_rows(tmp_path):
    with pytest.raises(ValueError, match="expected at least one measurement"):
        plots.plot_run([], tmp_path, RunConfig())
