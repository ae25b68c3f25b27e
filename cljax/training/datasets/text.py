"""Text as sequences of characters: tiny Shakespeare, or any text file."""

import dataclasses
import hashlib
import os
from pathlib import Path

import numpy as np

from cljax._checks import check_positive_int
from cljax.training.datasets.dataset import DataError, Examples, Part
from cljax.training.datasets.files import HOW, PathLike, Source, find_folder, read_bytes

SHAKESPEARE = Source(
    "tinyshakespeare",
    ("text",),
    "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
)
_FILE, _BYTES = "tinyshakespeare.txt", 1_115_394
_SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
_TEXT = Source("text", (), "anywhere")
CONTEXT = 64


@dataclasses.dataclass(frozen=True, eq=False)
class RawText:
    """A text as the ids of its characters.

    Attributes:
        tokens: int32 (length,), ids 0..V−1.
        vocabulary: the V characters of the text in the order of their code points, one for each id.
        notes: what differs from the official file.
    """

    tokens: np.ndarray
    vocabulary: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def examples(self, context: int | None) -> Examples:
        """Windows of the text: the first nine tenths for training, the last tenth for test.

        Args:
            context: length T of a window; None for 64.

        Returns:
            Windows of both parts, see ``windows``.

        Raises:
            ValueError: if a part has fewer than two characters.
        """
        context = CONTEXT if context is None else check_positive_int("context", context)
        num_test = len(self.tokens) // 10
        if num_test < 2:
            raise ValueError(f"text: expected at least 20 characters, got {len(self.tokens)}; take a longer one")
        train, test = self.tokens[:-num_test], self.tokens[-num_test:]
        size = len(self.vocabulary)
        return Examples(windows(train, context), windows(test, context), size, self.notes, vocabulary=self.vocabulary)


def windows(tokens: np.ndarray, context: int) -> Part:
    """Windows side by side, and for each token the next one: every token but the first is a target once.

    Args:
        tokens: int32 (length,), at least two.
        context: length T of a window.

    Returns:
        Inputs (n, T) and targets (n, T), int32, and weights (n, T), float32: 1, and 0 behind the end of the text,
        where inputs and targets are 0.
    """
    num = len(tokens) - 1
    shape = (-(-num // context), context)

    def rows(x: np.ndarray) -> np.ndarray:
        return np.pad(x, (0, shape[0] * context - num)).reshape(shape)

    return Part(rows(tokens[:-1]), rows(tokens[1:]), rows(np.ones(num, np.float32)))


def read_tinyshakespeare(data_dir: PathLike | None = None) -> RawText:
    """Tiny Shakespeare: 1,115,394 characters, 65 different ones.

    Args:
        data_dir: folder with tinyshakespeare.txt, or with a folder ``tinyshakespeare`` or ``text`` of it; None takes
            CLJAX_DATA.

    Returns:
        The text; a file that is not the official one is noted.
    """
    expected = f"{_BYTES:,} bytes"
    path = find_folder(SHAKESPEARE, data_dir, [(_FILE, expected)]) / _FILE
    contents = read_bytes(SHAKESPEARE, path, expected)
    official = hashlib.sha256(contents).hexdigest() == _SHA256
    note = f"{_FILE}: {len(contents):,} of {_BYTES:,} bytes; not the official file"
    return _encode(path, contents, () if official else (note,))


def read_text(data_dir: PathLike | None = None) -> RawText:
    """Any text file in UTF-8.

    Args:
        data_dir: the file itself; None takes CLJAX_DATA.

    Returns:
        The text.

    Raises:
        DataError: if no file was named, or it is missing, empty or not in UTF-8.
    """
    named = data_dir if data_dir is not None else os.environ.get("CLJAX_DATA")
    path = Path(named or "").expanduser()
    if not named or path.is_dir():
        got = f"the folder {path}" if named else "no file"
        raise DataError(f"text: expected a text file, got {got}; name the file itself: {HOW.replace('folder', 'path')}")
    return _encode(path, read_bytes(_TEXT, path, "a text file"), ())


def _encode(path: Path, contents: bytes, notes: tuple[str, ...]) -> RawText:
    try:
        text = contents.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: expected text in UTF-8, got byte {error.start} that is none; convert it") from None
    points, tokens = np.unique(np.frombuffer(text.encode("utf-32-le"), "<u4"), return_inverse=True)
    return RawText(tokens.reshape(-1).astype(np.int32), tuple(map(chr, points)), notes)
