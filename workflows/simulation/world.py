"""What the simulated encoders know: how classes, scenes and nuisances lie in feature space.

See docs/simulation.md for the reasons behind each constant.

Shapes: D feature width, K classes, N vectors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from extractors.spec import MODALITIES, Modality

SPECTRUM_POWER = 1.0  # eigenvalue i of the covariance falls as i^-power
GROUP_SIZE = 4  # classes that resemble each other
GROUP_SHARE = 0.5  # share of a prototype's variance that its group has in common
MEAN_NORM = 1.5  # of the vector that all features share, in norms of a prototype

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Encoder:
    """One simulated encoder.

    Vectors are made along the eigenvectors of its covariance, where drawing them is cheap, and
    turned into features by `rotate` in the end.

    Attributes:
        deviations: (D,) standard deviation along each eigenvector; squares sum to 1.
        basis: (D, D) eigenvectors, one a row.
        mean: (D,) common to all features, along the eigenvectors.
        prototypes: (K, D) of the classes, along the eigenvectors; expected norm 1.
    """

    deviations: Array
    basis: Array
    mean: Array
    prototypes: Array

    @property
    def dim(self) -> int:
        """D."""
        return len(self.deviations)

    def draw(self, rng: np.random.Generator, count: int) -> Array:
        """(N, D) vectors of the encoder's covariance, expected squared norm 1."""
        return self.colour(rng.standard_normal((count, self.dim)))

    def colour(self, normals: Array) -> Array:
        """(N, >= D) independent standard normals in, (N, D) vectors of the covariance out."""
        vectors: Array = normals[:, : self.dim] * self.deviations
        return vectors

    def rotate(self, vectors: Array) -> Array:
        """(N, D) along the eigenvectors in, (N, D) features out."""
        turned: Array = vectors @ self.basis
        return turned


def make_world(
    classes: Sequence[str], dims: dict[Modality, int], *, seed: int
) -> dict[Modality, Encoder]:
    """The two encoders of a simulation.

    Args:
        classes: Names of the K classes.
        dims: D of each modality.
        seed: Decides everything.
    """
    return {
        modality: _encoder(
            len(classes), dims[modality], np.random.default_rng([seed, number, 0x5EED])
        )
        for number, modality in enumerate(MODALITIES)
    }


def _encoder(classes: int, dim: int, rng: np.random.Generator) -> Encoder:
    variances = np.arange(1, dim + 1, dtype=np.float64) ** -SPECTRUM_POWER
    deviations = np.sqrt(variances / variances.sum())
    basis, triangle = np.linalg.qr(rng.standard_normal((dim, dim)))
    basis = basis * np.sign(np.diag(triangle))  # uniform over rotations, and the same everywhere
    mean = rng.standard_normal(dim) * deviations
    groups = rng.permutation(classes) // GROUP_SIZE  # each modality has its own likenesses
    centres = rng.standard_normal((groups.max() + 1, dim)) * deviations
    own = rng.standard_normal((classes, dim)) * deviations
    prototypes = np.sqrt(GROUP_SHARE) * centres[groups] + np.sqrt(1 - GROUP_SHARE) * own
    return Encoder(deviations, basis, mean * MEAN_NORM / np.linalg.norm(mean), prototypes)
