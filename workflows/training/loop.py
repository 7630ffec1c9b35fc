"""Training: one visible loop, exact resume, and checkpoints that say how they were made.

Shapes: B videos, T steps.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from model.arithmetic import full_float32
from model.build import Network
from model.checkpoint import Card
from model.clasp import CLASP, ActivationLosses
from model.loco import Losses
from pipeline.core.atomic import LEFTOVER_AGE_S, clean_temporaries
from pipeline.core.errors import PipelineError
from workflows.training.batch import Batch, Sample, collate
from workflows.training.dataset import SplitDataset
from workflows.training.log import (
    EpochMeter,
    EventFiles,
    learned_values,
    window_columns,
)
from workflows.training.precision import autocast, in_float32
from workflows.training.prefetch import prefetch
from workflows.training.state import (
    TrainSettings,
    TrainState,
    clear,
    restore,
    save_epoch,
    settings_json,
    start_training,
)
from workflows.training.threads import SMALL_LAYER, few_threads

LENGTH_STEP = 8  # steps; batches are padded to multiples of it
LOSS_TERMS = ("classes", "intervals", "correspondence", "evidence", "smoothness")  # as printed


# Quality of a model by name; ``validation_mAP`` is among them and decides which epoch is best.
Validate = Callable[[Network], Mapping[str, float]]


@full_float32()
def train(
    model: Network,
    data: SplitDataset,
    *,
    settings: TrainSettings,
    output: Path,
    card: Card,
    validate: Validate | None = None,
    device: torch.device,
    resume: bool = False,
    inputs: str = "",
    tensorboard: bool = False,
    report: Callable[[str], None] = lambda line: None,
) -> TrainState:
    """Train a model and write ``best.safetensors``, ``last.safetensors`` and ``log.csv``.

    The mean of the weights is what is validated and saved. The state is written after every epoch,
    so that an interrupted run loses at most one; a resumed run equals an undisturbed one. On a CPU
    it does so to the last bit; on a GPU that is not promised, as gradients of gathered steps
    (`model.perception.sample`) are summed there in an order that is not fixed.

    Args:
        model: Fresh weights; made under ``settings.seed``.
        data: The training split.
        settings: Everything that can be chosen.
        output: Folder of the run.
        card: Of the checkpoints; metrics are filled in.
        validate: Measures a model; without it the last epoch is the best.
        device: Where to train.
        resume: Continue from the state in ``output``, if there is one.
        inputs: Stands for everything else that decides the result (data, architecture); a run is
            only resumed with the inputs that it was started with.
        tensorboard: Also write the log as TensorBoard event files.
        report: Takes one line an epoch.

    Raises:
        PipelineError: The loss is not finite.
        EnvironmentFault: TensorBoard is asked for and not installed.
        UsageError: The folder holds an unfinished run and ``resume`` is off; or one of other
            settings or inputs and it is on.
        CheckpointError: The state of that run is damaged.
    """
    state = start_training(model.to(device), settings)
    event_files = EventFiles(output) if tensorboard else None
    identity = {**settings_json(settings), "inputs": inputs}
    clean_temporaries(output, older_than_seconds=LEFTOVER_AGE_S)
    if resume:
        restore(state, output, identity)
    else:
        clear(output)
    if event_files is not None:
        event_files.start(state.history)
    width = card.architecture.get("channels", SMALL_LAYER)  # unknown: taken for large
    with few_threads(settings.batch_size * settings.max_seq_len * width, device):
        while state.epoch < settings.epochs:
            row = _epoch(state, data, settings, device=device, validate=validate)
            save_epoch(state, output, card, identity, validated=validate is not None)
            if event_files is not None:
                event_files.add(row)
            report(_line(row, settings.epochs))
    if event_files is not None:
        event_files.close()
    return state


def _epoch(
    state: TrainState,
    data: SplitDataset,
    settings: TrainSettings,
    *,
    device: torch.device,
    validate: Validate | None,
) -> dict[str, float]:
    """Show the training split once; the row of the log, which the state's history ends in."""
    meter, began = EpochMeter(), time.monotonic()
    per_epoch = batch_count(data, settings)
    state.model.train()
    torch.manual_seed(_seed_of(settings.seed, state.epoch))  # drop path
    for batch in _shown(data, settings, epoch=state.epoch, device=device):
        rate = learning_rate(state.iteration, settings, per_epoch=per_epoch)
        for group in state.optimiser.param_groups:
            group["lr"] = rate * group["share"]
        meter.add(train_step(state, batch.to(device), settings))
        state.iteration += 1
    state.epoch += 1
    row = {"epoch": float(state.epoch), **meter.row(), "lr": rate}
    row |= learned_values(state.model)
    row |= window_columns(state.average.eval(), data, device=device)
    is_last = state.epoch == settings.epochs
    if validate is not None and (is_last or state.epoch % settings.validate_every == 0):
        judged = state.model if settings.validate_on == "raw" else state.average
        row.update(validate(judged.eval()))
    row["seconds"] = time.monotonic() - began
    state.history.append(row)
    return row


def train_step(state: TrainState, batch: Batch, settings: TrainSettings) -> dict[str, float]:
    """Forward, backward, clip, step, mean of weights; the loss terms."""
    state.optimiser.zero_grad(set_to_none=True)  # before the forward pass: their memory is free
    losses = _losses(state, batch, settings)
    if not losses.total.isfinite():
        raise PipelineError(
            f"the loss is {losses.total.item()} at iteration {state.iteration} "
            f"(epoch {state.epoch + 1})",
            hint="lower optim.lr, or look for features that are not finite",
        )
    losses.total.backward()
    norm = nn.utils.clip_grad_norm_(state.model.parameters(), settings.clip or math.inf)
    if not norm.isfinite():  # one step with it, and weights, checkpoint and state are lost
        raise PipelineError(
            f"the gradient is {norm.item()} at iteration {state.iteration} "
            f"(epoch {state.epoch + 1}), though the loss is {losses.total.item():.4g}",
            hint="lower optim.lr, or continue from the last epoch with train.precision=fp32",
        )
    state.optimiser.step()
    _update_average(state, settings)
    return {**losses.terms(), "gradient_norm": norm.item()}


def _losses(state: TrainState, batch: Batch, settings: TrainSettings) -> Losses | ActivationLosses:
    """The loss of one batch, in float32 always; CLASP is never shown a segment."""
    inputs = (batch.vision, batch.audio, batch.vision_mask, batch.audio_mask)
    with autocast(settings.precision, batch.vision.device):
        prediction = state.forward(*inputs)
    prediction = in_float32(prediction)
    if isinstance(state.model, CLASP):
        return state.model.loss(prediction, batch.labels)
    return state.model.loss(prediction, batch.segments, batch.labels, batch.doubts)


def batches(data: SplitDataset, settings: TrainSettings, *, epoch: int) -> Iterator[Batch]:
    """The batches of one epoch; order and crops depend on seed and epoch alone."""
    generator = random.Random(_seed_of(settings.seed, epoch))  # noqa: S311 - no secret
    order = data.crops(settings.max_seq_len)
    generator.shuffle(order)
    for first in range(0, batch_count(data, settings) * settings.batch_size, settings.batch_size):
        samples = [
            data.crop(
                data.sample(id),
                max_steps=settings.max_seq_len,
                share=settings.crop,
                keep=settings.keep,
                margin=settings.crop_margin,
                generator=generator,
            )
            for id in order[first : first + settings.batch_size]
        ]
        yield collate(samples, steps=_common_length(samples, settings))


def _common_length(samples: Sequence[Sample], settings: TrainSettings) -> int:
    """Steps that all samples of a batch are padded to.

    A compiled network is made for one shape: there all batches get the same length. Convolutions,
    too, are prepared for each length anew, hence a few lengths instead of all.
    """
    if settings.compile:
        return settings.max_seq_len
    longest = max(sample.steps for sample in samples)
    return min(-(-longest // LENGTH_STEP) * LENGTH_STEP, settings.max_seq_len)


def _shown(
    data: SplitDataset, settings: TrainSettings, *, epoch: int, device: torch.device
) -> Iterator[Batch]:
    """The batches of one epoch, read while the steps before them are computed."""
    made: Iterable[Batch] = batches(data, settings, epoch=epoch)
    if device.type == "cuda":
        made = (batch.pinned() for batch in made)
    return prefetch(made)


def batch_count(data: SplitDataset, settings: TrainSettings) -> int:
    """Batches of an epoch; at least one."""
    full, rest = divmod(len(data.crops(settings.max_seq_len)), settings.batch_size)
    return max(1, full if settings.drop_last else full + bool(rest))


def learning_rate(iteration: int, settings: TrainSettings, *, per_epoch: int) -> float:
    """Rate of one iteration: linear from 0, then a cosine to ``min_lr`` (UnAV, per iteration)."""
    warm = settings.warmup_epochs * per_epoch
    if iteration < warm:
        return settings.lr * iteration / max(1, warm - 1)  # the first step has rate 0, as there
    total = max(1, settings.epochs * per_epoch - warm)
    share = (iteration - warm) / total
    return settings.min_lr + 0.5 * (settings.lr - settings.min_lr) * (1 + math.cos(math.pi * share))


@torch.no_grad()
def _update_average(state: TrainState, settings: TrainSettings) -> None:
    """Exponential mean; with warm-up, that of a short run forgets its random start."""
    decay = settings.ema
    if settings.ema_warmup:
        decay = min(decay, (1 + state.iteration) / (10 + state.iteration))
    get_ema_multi_avg_fn(decay)(*state.followed, None)


def _seed_of(seed: int, epoch: int) -> int:
    return (seed * 1_000_003 + epoch) % 2**63


def _line(row: Mapping[str, float], epochs: int) -> str:
    quality = f"  validation mAP {row['validation_mAP']:.4f}" if "validation_mAP" in row else ""
    terms = ", ".join(f"{name} {row[name]:.4f}" for name in LOSS_TERMS if name in row)
    return (
        f"epoch {int(row['epoch']):>3}/{epochs}  loss {row['loss']:.4f} ({terms})"
        f"  lr {row['lr']:.1e}{quality}"
    )
