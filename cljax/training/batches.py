"""Batches as a function of seed and step alone, so that a resumed run sees the data that it would have seen.

Every process draws the same order and reads only the rows that its devices hold.
"""

from collections.abc import Callable

import numpy as np

from cljax._batch import Batch

Rows = Callable[[int], np.ndarray]
"""Which rows of a batch of that many this process reads, see ``parallel.batch_rows``; None for all."""


class Batches:
    """Batches of a data set, in a new random order each epoch.

    Args:
        inputs: (n, ...).
        targets: (n, ...).
        batch_size: examples in a batch; above n counts as n.
        seed: of the order.
        multiple_of: pad every batch with examples of weight 0 to a multiple of this, the number of devices.
        weight: None for all ones, or a leading part of the losses' shape: (n,) or (n, T).
        rows_fn: which rows of a batch are read here, None for all.
    """

    def __init__(
        self,
        inputs: np.ndarray,
        targets: np.ndarray,
        batch_size: int,
        seed: int,
        multiple_of: int = 1,
        weight: np.ndarray | None = None,
        rows_fn: Rows | None = None,
    ) -> None:
        self._inputs, self._targets, self._weight = inputs, targets, weight
        self._size = min(batch_size, len(targets))
        self._padded = -(-self._size // multiple_of) * multiple_of
        self._seed = seed
        self._rows_fn = rows_fn
        self._order: tuple[int, np.ndarray] | None = None

    @property
    def steps_per_epoch(self) -> int:
        """Batches in an epoch, an uneven last one included."""
        return -(-len(self._targets) // self._size)

    def __call__(self, step: int) -> Batch:
        """The batch of one step.

        Args:
            step: from 0 on.

        Returns:
            The rows read here as NumPy arrays, always of the same shapes: what is missing is padded with weight 0.
        """
        epoch, index = divmod(step, self.steps_per_epoch)
        if self._order is None or self._order[0] != epoch:
            self._order = (epoch, np.random.default_rng((self._seed, epoch)).permutation(len(self._targets)))
        chosen = self._order[1][index * self._size : (index + 1) * self._size]
        return _take(Batch(self._inputs, self._targets, self._weight), chosen, self._padded, self._rows_fn)


def padded_batch(
    inputs: np.ndarray,
    targets: np.ndarray,
    size: int,
    weight: np.ndarray | None = None,
    rows_fn: Rows | None = None,
) -> Batch:
    """A batch of ``size`` examples, the missing ones repeated from the first with weight 0.

    Args:
        inputs: (n, ...), n of at least 1 and at most ``size``.
        targets: (n, ...).
        size: examples in the batch.
        weight: None for all ones, or (n, ...).
        rows_fn: which of them are read here, None for all.

    Returns:
        A batch with explicit float32 weights.
    """
    return _take(Batch(inputs, targets, weight), np.arange(len(targets)), size, rows_fn)


def _take(whole: Batch, chosen: np.ndarray, size: int, rows_fn: Rows | None) -> Batch:
    """The chosen examples, padded to ``size``, and of those the rows that are read here."""
    padding = np.repeat(chosen[:1], size - len(chosen))
    index = np.concatenate([chosen, padding])
    weight = np.ones(len(index), np.float32) if whole.weight is None else whole.weight[index].astype(np.float32)
    weight[len(chosen) :] = 0
    rows = slice(None) if rows_fn is None else rows_fn(size)
    return Batch(whole.inputs[index[rows]], whole.targets[index[rows]], weight[rows])
