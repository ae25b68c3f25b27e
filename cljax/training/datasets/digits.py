"""The digits that ship with the package: 1797 images of 8x8 pixels, no download."""

from importlib import resources

import numpy as np

from cljax.training.datasets.dataset import RawImages
from cljax.training.datasets.files import PathLike


def read_digits(data_dir: PathLike | None = None) -> RawImages:
    """The UCI handwritten digits: 1,437 training and 360 test images of shape (8, 8, 1), 10 classes.

    The split is fixed and uses no random numbers: images are sorted by label, keeping the file's order within a label,
    and every fifth of them, from the first on, is a test image. So each class is split 4 to 1 up to one image. The same
    people wrote training and test images, as in every random split of this set. Both parts keep the file's order.

    Args:
        data_dir: not used: the file lies in the package.

    Returns:
        The images, values 0 to 16, and labels.
    """
    del data_dir
    with (
        resources.files("cljax.training.datasets").joinpath("digits.npz").open("rb") as file,
        np.load(file, allow_pickle=False) as arrays,
    ):
        images, labels = arrays["images"][..., None], arrays["labels"]
    is_test = np.zeros(len(labels), bool)
    is_test[np.argsort(labels, kind="stable")[::5]] = True
    return RawImages((images[~is_test], labels[~is_test]), (images[is_test], labels[is_test]), num_classes=10)
