"""One pass of a trained run over test videos: similarity of its streams, windows, events.

Shapes: T steps, Tv and Ta of them with picture and with sound.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from extractors.device import select_device
from model.arithmetic import full_float32
from model.checkpoint import load_checkpoint
from model.loco import LoCo
from model.similarity import cross_similarity
from model.windows import watch_windows
from pipeline.core.events import Event, sort_events
from pipeline.report.run_view import SimilarityView, WindowView
from workflows.detection.predict import Predictor
from workflows.progress import Progress
from workflows.quality.runs import Run
from workflows.quality.shift import Shares, mean_shares, shift_sound
from workflows.quality.windows import WindowTally
from workflows.training.build import decoding_settings
from workflows.training.dataset import feature_tensors


@dataclass(frozen=True, slots=True)
class Shown:
    """What one run says of one video of the page.

    Attributes:
        events: Those above the run's threshold, by start.
        matrix: (T, T) cross-similarity, NaN where a step does not exist; None where picture or
            sound is missing altogether.
    """

    events: tuple[Event, ...]
    matrix: NDArray[np.float32] | None


@dataclass(frozen=True, slots=True)
class Measured:
    """What one pass over the test split leaves of a run.

    Attributes:
        similarity: Over the measured videos; None where none has both picture and sound.
        windows: Of each block, level and head.
        shown: By video.
        parameters: Of the model.
    """

    similarity: SimilarityView | None
    windows: tuple[WindowView, ...]
    shown: Mapping[str, Shown]
    parameters: int


@full_float32()
def measure_run(run: Run, ids: Sequence[str], shown: Sequence[str], *, device: str) -> Measured:
    """Ask a run's model about test videos, each up to the length of a piece of decoding.

    Args:
        run: With weights and features.
        ids: Videos over which similarity and windows are measured.
        shown: Videos of which events and matrix are wanted.
        device: Where the model runs.
    """
    assert run.data is not None
    model, card = load_checkpoint(run.checkpoint)
    model = model.to(select_device(device))
    settings = decoding_settings(run.recipe)
    predict = Predictor(model, card, settings=settings)
    tally, counted = WindowTally(run.data.grid), set(ids)
    found: dict[str, Shown] = {}
    rows: list[tuple[float, float, float]] = []
    shares: list[Shares] = []
    wanted = sorted(counted.union(shown))
    with Progress(len(wanted), what=run.name) as bar:
        for id in wanted:
            features = run.data.features(id)
            inputs = feature_tensors(features, modalities=run.recipe.data.modalities)
            piece = [x[..., : settings.chunk] for x in inputs]
            matrix = _look(model, piece, tally if id in counted else None)
            if id in counted and matrix is not None:
                rows.append(deviation_and_means(matrix))
                moved = shift_sound(model, piece, run.data.grid)
                shares += [] if moved is None else [moved]
            if id in shown:
                events = [event for event in predict(features) if event.score >= run.threshold]
                found[id] = Shown(sort_events(events), matrix)
            bar.advance()
    parameters = sum(value.numel() for value in model.parameters())
    return Measured(_similarity(rows, shares), tally.views(), found, parameters)


@torch.inference_mode()
def _look(
    model: LoCo, inputs: Sequence[Tensor], tally: WindowTally | None
) -> NDArray[np.float32] | None:
    """One forward pass: the matrix of the whole piece; see `Shown`."""
    device = next(model.parameters()).device
    vision, audio, seen, heard = (x.to(device) for x in inputs)
    with watch_windows(model.pyramid) as windows:
        prediction = model(vision[None], audio[None], seen[None], heard[None])
    if tally is not None:
        tally.add(windows)
    cells = cross_similarity(prediction.vision[0], prediction.audio[0], seen, heard)
    if cells.numel() == 0:
        return None
    matrix = np.full((len(seen), len(heard)), np.nan, np.float32)
    matrix[np.ix_(seen.cpu().numpy(), heard.cpu().numpy())] = cells.cpu().numpy()
    return matrix


def deviation_and_means(matrix: NDArray[np.float32]) -> tuple[float, float, float]:
    """Standard deviation and mean of a matrix' cells, and the mean of those of one moment.

    NaN cells do not count; the last is NaN where no step has both picture and sound.
    """
    cells = matrix[~np.isnan(matrix)].astype(np.float64)
    moments = np.diagonal(matrix).astype(np.float64)
    moments = moments[~np.isnan(moments)]
    synchronous = float(moments.mean()) if len(moments) else float("nan")
    return float(cells.std()), float(cells.mean()), synchronous


def _similarity(
    rows: Sequence[tuple[float, float, float]], shares: Sequence[Shares]
) -> SimilarityView | None:
    if not rows:
        return None
    table = np.array(rows, np.float64)
    moments = table[~np.isnan(table[:, 2]), 2]
    return SimilarityView(
        deviations=table[:, 0],
        level=float(table[:, 1].mean()),
        synchronous=float(moments.mean()) if len(moments) else None,
        nearest=None if (mean := mean_shares(shares)) is None else astuple(mean),
        shifted=len(shares),
    )
