"""The progress bar: step and figures, on a narrow terminal too."""

import pytest

from cljax.training.progress import RunProgress

pytestmark = pytest.mark.fast


def test_step_and_figures_have_room_on_80_columns(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    row = {
        "step": 575,
        "train_loss": 0.0135,
        "test_accuracy": 0.983,
        "hessian_top": [1.253],
        "two_over_lr": 9351.0,
        "hessian_bottom": [-0.0274],
        "gradient_energy": 0.7781,
        "structure_min": 48.63,
        "structure_max": 1046.0,
    }
    with RunProgress(600) as bar:
        bar.row(row)
    shown = capsys.readouterr().err
    assert "…" not in shown
    for figure in ("575/600", "━", "0.0135", "98.3%", "1.25", "9.35e+03", "-0.0274", "0.778", "48.6..1.05e+03"):
        assert figure in shown
