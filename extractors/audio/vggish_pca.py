"""VGGish's post-processing: whitening, then whole numbers 0 .. 255, as AudioSet's release has it.

    w = E (x - mean);  q = (clip(w, -2, 2) + 2) * 255 / 4

TensorFlow's code cuts the fraction of q off, the PyTorch port rounds it.
"""

from __future__ import annotations

import os
import zipfile
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from extractors.i3d_vggish_spec import VGGISH_PCA_WEIGHTS
from extractors.weights.check import describe_weights
from extractors.weights.find import find_weights
from pipeline.core.errors import EnvironmentFault

Rounding = Literal["truncate", "round"]
LIMIT = 2.0
LEVELS = 255
WIDTH = 128


class VggishPca:
    """Whitening and quantisation of VGGish embeddings.

    Args:
        vectors: (128, 128), one principal direction a row, scaled to unit variance.
        means: (128,).
        rounding: What becomes of fractions: ``truncate`` or ``round`` (halves to even).
    """

    def __init__(
        self, vectors: NDArray[np.floating], means: NDArray[np.floating], *, rounding: Rounding
    ) -> None:
        if vectors.shape != (WIDTH, WIDTH) or means.size != WIDTH:
            raise ValueError(f"vectors and means are {vectors.shape} and {means.shape}, not of 128")
        self._vectors = vectors.astype(np.float64)
        self._means = means.reshape(1, WIDTH).astype(np.float64)
        self._rounding = rounding

    def whiten(self, embeddings: NDArray[np.floating]) -> NDArray[np.float64]:
        """(N, 128) to (N, 128), in double precision."""
        whitened: NDArray[np.float64] = (embeddings - self._means) @ self._vectors.T
        return whitened

    def __call__(self, embeddings: NDArray[np.floating]) -> NDArray[np.float32]:
        """(N, 128) to whole numbers 0 .. 255, (N, 128)."""
        clipped = np.clip(self.whiten(embeddings), -LIMIT, LIMIT)
        levels = (clipped + LIMIT) * (LEVELS / (2 * LIMIT))
        whole = np.trunc(levels) if self._rounding == "truncate" else np.round(levels)
        return whole.astype(np.float32)


def load_vggish_pca(
    *, rounding: Rounding = "truncate", weights_dir: str | os.PathLike[str] | None = None
) -> VggishPca:
    """Load the published parameters.

    Args:
        rounding: What becomes of fractions: ``truncate`` as TensorFlow's code has it, or ``round``
            as the PyTorch port.
        weights_dir: Folder of ``vggish_pca_params.npz``.

    Raises:
        EnvironmentFault: The file is missing or damaged.
    """
    path = find_weights(VGGISH_PCA_WEIGHTS, weights_dir=weights_dir)
    try:
        with np.load(path, allow_pickle=False) as arrays:
            vectors, means = arrays["pca_eigen_vectors"], arrays["pca_means"]
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise EnvironmentFault(
            f"{path}: the weights cannot be read ({error})",
            hint=f"it should be {describe_weights(VGGISH_PCA_WEIGHTS)}",
        ) from error
    return VggishPca(vectors, means, rounding=rounding)
