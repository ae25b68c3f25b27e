"""Everything that decides a run: one frozen dataclass, saved as config.json, and the source of the command's flags."""

import dataclasses
import json
import math
import os
import pathlib
import types
import typing
from typing import Any, Literal

import numpy as np

from cljax._checks import check_positive_int
from cljax.spectral.goal import CRITERIA

SCHEDULES = ("cosine", "constant")
_GREATEST = float(np.finfo(np.float32).max)
LOSSES = ("shannon", "squared", "bernoulli", "sparsemax", "poisson")


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """A tracked training run.

    Attributes:
        dataset: digits (in the package), mnist, fashion_mnist, cifar10, cifar100, tinyshakespeare or text.
        data_dir: folder of the data files, for text the file itself; the environment variable CLJAX_DATA where it is
            not given.
        num_train: use so many training examples, chosen at random once; all where it is not given.
        num_test: the same for test examples.
        context: characters in an example of text; 64 where it is not given.
        model: mlp, cnn, lenet, resnet18 or vit; transformer for text.
        model_option: options of the model as NAME=VALUE, for example width=16 activation=relu.
        loss: regularizer of the Fenchel-Young loss.
        num_steps: optimizer steps.
        batch_size: examples a step.
        learning_rate: peak step size of SGD.
        schedule: cosine falls to 0 over the run; constant stays.
        warmup_steps: steps of linear warm-up before it.
        momentum: of SGD, 0 for none.
        weight_decay: added to the gradient, times the parameters.
        track_decay: track the curvature of the loss with weight decay, rather than that of the loss alone.
        seed: of everything random.
        measure_every: steps from one measurement to the next; step 0 and the last step are always measured.
        measure_examples: training examples on which curvature is measured, the same ones all along.
        structure_examples: how many of those have their structure matrices measured; none of sequences.
        eval_examples: most examples for training and for test loss and accuracy.
        num_top: greatest Hessian eigenvalues tracked.
        num_bottom: least Hessian eigenvalues tracked.
        track_above: track all Hessian eigenvalues above this multiple of 2 / learning rate, not only num_top.
        max_top: up to how many then.
        tol: relative error at which an eigenvalue counts as converged.
        criterion: the error that decides; value is the eigenvalue's own, estimated, and residual an upper bound of it.
        max_products: most Hessian products in a measurement.
        basis_size: most Lanczos vectors kept in a measurement; as many as max_products where not given.
        microbatch_size: examples differentiated at a time in a product; all of measure_examples where not given.
        checkpoint_every: steps from one checkpoint to the next; the last step always has one.
        keep_checkpoints: how many checkpoints are kept.
        density_probes: random probes of the spectral density at the last checkpoint; 0 for no density.
        density_steps: Lanczos steps for each probe.
        num_devices: devices to use; all where it is not given.
        mesh: axes of the devices as NAME=LENGTH, for example data=4,model=2; one length may be left out. Batches are
            split over the axis data, over all axes where none has that name. data alone where it is not given.
        shard: rules for parameters as PATTERN=SPEC, the first whose pattern is found in a parameter's path decides:
            kernel=,model splits its second axis over model; fsdp, or PATTERN=fsdp:AXIS, its longest axis over data or
            AXIS. Parameters without a rule are whole on each device.
        sharded_basis: spread the Lanczos vectors of measurements over all devices, also those of whole parameters.
        run_dir: folder to write; runs/DATASET-MODEL where it is not given.
    """

    dataset: str = "digits"
    data_dir: str | None = None
    num_train: int | None = None
    num_test: int | None = None
    context: int | None = None
    model: str = "mlp"
    model_option: tuple[str, ...] = ()
    loss: Literal["shannon", "squared", "bernoulli", "sparsemax", "poisson"] = "shannon"
    num_steps: int = 600
    batch_size: int = 64
    learning_rate: float = 0.05
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup_steps: int = 0
    momentum: float = 0.9
    weight_decay: float = 5e-4
    track_decay: bool = False
    seed: int = 0
    measure_every: int = 25
    measure_examples: int = 512
    structure_examples: int = 64
    eval_examples: int = 2000
    num_top: int = 3
    num_bottom: int = 1
    track_above: float | None = None
    max_top: int = 16
    tol: float = 1e-3
    criterion: Literal["value", "residual"] = "value"
    max_products: int = 100
    basis_size: int | None = None
    microbatch_size: int | None = None
    checkpoint_every: int = 100
    keep_checkpoints: int = 3
    density_probes: int = 4
    density_steps: int = 48
    num_devices: int | None = None
    mesh: str | None = None
    shard: tuple[str, ...] = ()
    sharded_basis: bool = False
    run_dir: str | None = None

    def __post_init__(self) -> None:
        """Check ranges, so that a wrong flag fails before anything is compiled or written.

        Raises:
            ValueError: if a value is out of range.
            TypeError: if a value is of another type than its field, which the run directory could not keep.
        """
        zero = ("seed", "warmup_steps", "num_bottom", "num_top", "density_probes", "structure_examples")
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.type not in ("int", int, "int | None", int | None) or value is None:
                continue
            bits = 63 if field.name == "seed" else 31
            if check_positive_int(field.name, value, 0 if field.name in zero else 1) >= 2**bits:
                raise ValueError(f"{field.name}: expected an integer below 2**{bits}, got {value}")
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            plain = tuple(value) if isinstance(value, list) else float(value) if isinstance(value, float) else value
            if not _fits(plain, field.type):
                wanted, got = _in_words(field.type), type(value).__name__
                raise TypeError(f"{field.name}: expected {wanted}, got {value!r} of type {got}")
        if not 0 < self.learning_rate <= _GREATEST:
            raise ValueError(
                f"learning_rate: expected a positive finite number, at most {_GREATEST:.3g}, got {self.learning_rate}"
            )
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum: expected a number in [0, 1), got {self.momentum}")
        if not 0 <= self.weight_decay < math.inf:
            raise ValueError(f"weight_decay: expected a finite number of at least 0, got {self.weight_decay}")
        if not 0 < self.tol < 1:
            raise ValueError(f"tol: expected a number in (0, 1), got {self.tol}")
        if self.loss not in LOSSES:
            raise ValueError(f"loss: expected one of {list(LOSSES)}, got {self.loss!r}")
        if self.schedule not in SCHEDULES:
            raise ValueError(f"schedule: expected one of {list(SCHEDULES)}, got {self.schedule!r}")
        if self.warmup_steps >= self.num_steps:
            raise ValueError(f"warmup_steps: expected fewer than num_steps {self.num_steps}, got {self.warmup_steps}")
        if self.criterion not in CRITERIA:
            raise ValueError(f"criterion: expected one of {list(CRITERIA)}, got {self.criterion!r}")
        if self.track_above is not None and not 0 < self.track_above < math.inf:
            raise ValueError(f"track_above: expected a positive finite number, got {self.track_above}")
        if self.track_above is not None and self.max_top < max(self.num_top, 1):
            raise ValueError(f"max_top: expected at least num_top {self.num_top}, got {self.max_top}")
        if not self.num_top + self.num_bottom:
            raise ValueError("num_top + num_bottom: expected at least 1 eigenvalue to track, got 0")

    @property
    def tracked_decay(self) -> float:
        """What weight decay adds to the eigenvalues that are tracked."""
        return self.weight_decay if self.track_decay else 0.0

    @property
    def directory(self) -> pathlib.Path:
        """The run directory."""
        return pathlib.Path(self.run_dir or f"runs/{self.dataset}-{self.model}")

    def on_devices(self, num_devices: int | None, mesh: str | None) -> "RunConfig":
        """The same run on other devices.

        Args:
            num_devices: how many; where None as they were, or all with another mesh.
            mesh: axes, where None as they were. It has all axes that the rules of ``shard`` name; their length may
                be 1.

        Returns:
            The configuration.
        """
        if mesh is not None:
            return dataclasses.replace(self, num_devices=num_devices, mesh=mesh)
        return self if num_devices is None else dataclasses.replace(self, num_devices=num_devices)

    def save(self, path: pathlib.Path) -> None:
        """Write as JSON, atomically.

        Args:
            path: file to write.
        """
        write_text(path, json.dumps(dataclasses.asdict(self), indent=2) + "\n")

    @classmethod
    def load(cls, path: pathlib.Path) -> "RunConfig":
        """Read what ``save`` wrote.

        Args:
            path: file to read.

        Returns:
            The configuration.

        Raises:
            ValueError: if the file is missing, is no JSON object, or has unknown fields or values of a wrong type.
        """
        try:
            saved: dict[str, Any] = json.loads(path.read_text())
            fields: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in saved.items()}
            for field in dataclasses.fields(cls):
                if field.name in fields and not _fits(fields[field.name], field.type):
                    wanted, got = _in_words(field.type), json.dumps(saved[field.name])
                    raise ValueError(f"{path}: {field.name}: expected {wanted}, got {got}; mend that line")
            return cls(**fields)
        except FileNotFoundError as error:
            raise ValueError(f"run_dir: expected a run with config.json in it, got {path.parent}") from error
        except (json.JSONDecodeError, UnicodeDecodeError, TypeError, AttributeError) as error:
            raise ValueError(f"{path}: expected the configuration of a run, got {error}") from error


_WORDS = {int: "an integer", float: "a number", bool: "true or false", str: "a string", type(None): "null"}


def _kinds(kind: Any) -> tuple[Any, ...]:
    """The alternatives of a field's type; a literal is a string whose value is checked elsewhere."""
    options = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    return tuple(str if typing.get_origin(option) is Literal else option for option in options)


def _fits(value: Any, kind: Any) -> bool:
    """Whether a value is of the type of a field, as JSON has them: an integer is a number, and true is no integer."""
    kinds = _kinds(kind)
    if isinstance(value, tuple):
        return tuple[str, ...] in kinds and all(isinstance(entry, str) for entry in value)
    return type(value) in kinds or (type(value) is int and float in kinds)


def _in_words(kind: Any) -> str:
    return " or ".join(_WORDS.get(option, "a list of strings") for option in _kinds(kind))


def write_text(path: pathlib.Path, text: str) -> None:
    """Write a file so that it is either the old or the new one, whole.

    Args:
        path: file to write.
        text: its contents.
    """
    partial = path.with_name(path.name + ".partial")
    with partial.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
