"""The log of a training: one row an epoch, as CSV, and as TensorBoard event files where wanted.

The rows live in the state of the run; both kinds of file are written from them, so that a run
that was killed and resumed leaves the same log as one that was not.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model.build import Network
from model.correspondence import TEMPERATURES
from model.loco import LoCo
from model.perception import DynamicPerception
from model.windows import ChosenWindows, watch_windows
from pipeline.core.atomic import write_text
from pipeline.core.errors import ConfigError, EnvironmentFault
from workflows.training.batch import collate
from workflows.training.dataset import SplitDataset

LOG_COLUMNS = (
    "epoch", "loss", "classes", "intervals", "correspondence", "lr", "sigma", "temperature",
    "validation_mAP", "threshold", "missed", "gradient_norm", "normaliser", "seconds",
)  # fmt: skip
# ``gradient_norm`` is taken before clipping; ``seconds`` are of the epoch, validation included.
SUMMED = (
    "missed",
    "unlabelled",
)  # counts over the epoch; everything else is the mean of its iterations
PROBE_VIDEOS = 4  # windows are looked at on so many videos: few, so that an epoch costs the same
EVENT_FOLDER = "tensorboard"


class EpochMeter:
    """Gathers what the iterations of one epoch report."""

    def __init__(self) -> None:
        self._sums: dict[str, float] = {}
        self._count = 0

    def add(self, values: Mapping[str, float]) -> None:
        """Take the values of one iteration."""
        self._count += 1
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + value

    def row(self) -> dict[str, float]:
        """Means, and sums of what is counted; a value that is not finite is left out."""
        found = {
            name: total if name in SUMMED else total / self._count
            for name, total in self._sums.items()
        }
        return {name: value for name, value in found.items() if math.isfinite(value)}


@torch.no_grad()
def learned_values(model: Network) -> dict[str, float]:
    """Normaliser, and LCC's deviation (steps) and temperature where the model has them."""
    if not isinstance(model, LoCo):
        return {}
    found = {"normaliser": float(model.normaliser.count)}
    if model.correspondence is not None:
        found["sigma"] = float(model.correspondence.sigma())
        found["temperature"] = float(model.correspondence.temperature.clamp(*TEMPERATURES))
    return found


@torch.no_grad()
def window_columns(model: Network, data: SplitDataset, *, device: torch.device) -> dict[str, float]:
    """Mean length and mean absolute offset of the windows on each level, in base windows.

    A window whose size fell below 0 runs backwards; its length counts like that of any other.

    Taken on the first videos of the split, uncropped up to ``model.max_seq_len``; draws no random
    number, so that it does not change the training.

    Args:
        model: In eval mode, on ``device``.
        data: The training split.
        device: Of the model.

    Returns:
        ``window_size_l``, ``window_offset_l`` and ``window_backwards_l``, the share of windows that
        run backwards, for each level l from 1; none without dynamic windows.
    """
    if not isinstance(model, LoCo):
        return {}
    if not any(isinstance(part, DynamicPerception) for part in model.pyramid.modules()):
        return {}
    samples = [
        data.sample(id).streams_at(slice(model.max_seq_len)) for id in data.ids[:PROBE_VIDEOS]
    ]
    batch = collate(samples).to(device)
    with watch_windows(model.pyramid) as found:
        model(batch.vision, batch.audio, batch.vision_mask, batch.audio_mask)
    row = {}
    for level in range(model.levels):
        chosen = [entry for entry in found if entry.level == level]
        sizes, offsets = _values(chosen, "size"), _values(chosen, "offset")
        row[f"window_size_{level + 1}"] = float(sizes.abs().mean())
        row[f"window_offset_{level + 1}"] = float(offsets.abs().mean())
        row[f"window_backwards_{level + 1}"] = float((sizes < 0).float().mean())
    return {name: value for name, value in row.items() if math.isfinite(value)}


def _values(chosen: Sequence[ChosenWindows], name: str) -> Tensor:
    """Of all heads and valid windows of all blocks, in base windows."""
    values = [
        getattr(entry, name).transpose(1, 2)[entry.valid].flatten() / entry.base for entry in chosen
    ]
    return torch.cat(values)


def write_log(path: Path, history: Sequence[Mapping[str, float]]) -> None:
    """Write the rows as CSV; a value that an epoch lacks is an empty cell.

    Args:
        path: ``log.csv`` of a run.
        history: One row an epoch; names beyond `LOG_COLUMNS` become further columns.
    """
    more = sorted({name for row in history for name in row} - set(LOG_COLUMNS))
    text = io.StringIO()
    writer = csv.DictWriter(text, [*LOG_COLUMNS, *more], restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    write_text(path, text.getvalue())


def read_log(path: Path) -> list[dict[str, float]]:
    """Rows of a log of this version or an earlier one; empty cells are left out.

    Raises:
        ConfigError: The file cannot be read, or holds a cell that is no number.
    """
    try:
        rows = list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))
        return [{name: float(cell) for name, cell in row.items() if name and cell} for row in rows]
    except (OSError, ValueError, TypeError, csv.Error) as error:
        raise ConfigError(
            f"{path} is no training log: {error}", hint="it is written by the train stage"
        ) from error


class EventFiles:
    """TensorBoard event files of one run, made from its rows.

    Files of an earlier start are replaced and their rows written again: what a killed run had
    written beyond its last saved epoch does not stay.

    Args:
        folder: Of the run; the files go to ``tensorboard`` in it. Nothing is touched before
            `start`.

    Raises:
        EnvironmentFault: TensorBoard is not installed.
    """

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise EnvironmentFault(
                "train.tensorboard=true needs the package tensorboard, which is not installed",
                hint="pip install 'davel-pipeline[tensorboard]', or set train.tensorboard=false",
            ) from error
        self._place = folder / EVENT_FOLDER
        self._kind = SummaryWriter
        self._writer: Any = None

    def start(self, history: Iterable[Mapping[str, float]]) -> None:
        """Begin anew with the rows that are there already."""
        for old in self._place.glob("events.out.tfevents.*"):
            old.unlink()
        self._writer = self._kind(self._place)
        for row in history:
            self.add(row)

    def add(self, row: Mapping[str, float]) -> None:
        """Add one epoch and put it on disk."""
        for name, value in row.items():
            if name != "epoch":
                self._writer.add_scalar(name, value, int(row["epoch"]))
        self._writer.flush()

    def close(self) -> None:
        """End the file; the rows are on disk before."""
        self._writer.close()
