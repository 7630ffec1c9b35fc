"""Training: one visible loop, exact resume, and checkpoints that say how they were made.

Shapes: B videos, T steps.
"""

from __future__ import annotations

import copy
import json
import math
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from model.build import Network
from model.checkpoint import Card, save_checkpoint
from model.clasp import CLASP, ActivationLosses
from model.loco import Losses
from model.perception import WindowAdaptation
from pipeline.core.atomic import atomic_path, clean_temporaries, write_json
from pipeline.core.errors import PipelineError, UsageError
from workflows.training.dataset import Batch, SplitDataset, collate
from workflows.training.log import (
    EpochMeter,
    EventFiles,
    learned_values,
    window_columns,
    write_log,
)
from workflows.training.precision import autocast, compiled, in_float32
from workflows.training.prefetch import prefetch

LEFTOVER_AGE_S = 3600.0  # half-written files of a killed run; writing one takes seconds
LOSS_TERMS = ("classes", "intervals", "correspondence", "evidence", "smoothness")  # as printed


@dataclass(frozen=True, slots=True)
class TrainSettings:
    """Arguments of `train`; see `pipeline.recipe.OptimConfig` and `TrainConfig`."""

    lr: float
    min_lr: float
    weight_decay: float
    epochs: int
    warmup_epochs: int
    batch_size: int
    drop_last: bool
    clip: float
    ema: float
    seed: int
    crop: tuple[float, float]
    keep: float
    max_seq_len: int
    validate_every: int
    optimiser: str = "adamw"
    ema_warmup: bool = True
    validate_on: str = "averaged"
    precision: str = "fp32"
    compile: bool = False
    window_lr: float = 1.0


@dataclass(slots=True)
class TrainState:
    """All that changes from one epoch to the next; what resume restores."""

    model: Network
    average: Network
    optimiser: torch.optim.Optimizer
    forward: Callable[..., Any]  # the model, or its compiled form over the same weights
    iteration: int = 0
    epoch: int = 0
    best: float = -1.0
    history: list[dict[str, float]] = field(default_factory=list)


# Quality of a model by name; ``validation_mAP`` is among them and decides which epoch is best.
Validate = Callable[[Network], Mapping[str, float]]


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
    so that an interrupted run loses at most one; a resumed run equals an undisturbed one.

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
    """
    state = start_training(model.to(device), settings)
    event_files = EventFiles(output) if tensorboard else None
    identity = {**_settings_json(settings), "inputs": inputs}
    clean_temporaries(output, older_than_seconds=LEFTOVER_AGE_S)
    if resume:
        _restore(state, output, identity)
    else:
        _clear(output)
    per_epoch = batch_count(data, settings)
    if event_files is not None:
        event_files.start(state.history)
    while state.epoch < settings.epochs:
        meter, began = EpochMeter(), time.monotonic()
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
        _save_epoch(state, output, card, identity, validated=validate is not None)
        if event_files is not None:
            event_files.add(row)
        report(_line(row, settings.epochs))
    if event_files is not None:
        event_files.close()
    return state


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
                generator=generator,
            )
            for id in order[first : first + settings.batch_size]
        ]
        # A compiled network is made for one shape: there all batches get the same length.
        yield collate(samples, steps=settings.max_seq_len if settings.compile else None)


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


def parameter_groups(
    model: nn.Module, *, weight_decay: float, window_lr: float = 1.0
) -> list[dict[str, Any]]:
    """Decay for weights of convolutions and linear maps; none for biases, norms, gains, scalars.

    Args:
        model: Whose parameters are to be learned.
        weight_decay: Of the groups that decay.
        window_lr: ``share`` of the groups that choose windows (`WindowAdaptation`); theirs come
            last and are left out where it is 1.

    Returns:
        Groups for an optimiser. ``share`` is what part of the learning rate a group learns at.
    """
    windows = {
        id(value)
        for module in model.modules()
        if isinstance(module, WindowAdaptation) and window_lr != 1.0
        for value in module.parameters()
    }
    found: dict[tuple[bool, bool], list[nn.Parameter]] = {(False, True): [], (False, False): []}
    for name, value in model.named_parameters():
        decays = value.dim() >= 2 and name.endswith("weight")
        found.setdefault((id(value) in windows, decays), []).append(value)
    return [
        {
            "params": values,
            "weight_decay": weight_decay if decays else 0.0,
            "share": window_lr if chooses else 1.0,
        }
        for (chooses, decays), values in found.items()
    ]


def start_training(model: Network, settings: TrainSettings) -> TrainState:
    """A state before the first iteration: optimiser, mean of the weights, compiled network.

    Raises:
        EnvironmentFault: Compilation is asked for and there is no compiler.
    """
    groups = parameter_groups(
        model, weight_decay=settings.weight_decay, window_lr=settings.window_lr
    )
    average = copy.deepcopy(model).requires_grad_(False)
    kind = torch.optim.Adam if settings.optimiser == "adam" else torch.optim.AdamW
    forward = compiled(model) if settings.compile else model
    return TrainState(model, average, kind(groups, lr=settings.lr), forward)


@torch.no_grad()
def _update_average(state: TrainState, settings: TrainSettings) -> None:
    """Exponential mean; with warm-up, that of a short run forgets its random start."""
    decay = settings.ema
    if settings.ema_warmup:
        decay = min(decay, (1 + state.iteration) / (10 + state.iteration))
    for mean, value in zip(
        state.average.state_dict().values(), state.model.state_dict().values(), strict=True
    ):
        mean.lerp_(value, 1 - decay)


def _seed_of(seed: int, epoch: int) -> int:
    return (seed * 1_000_003 + epoch) % 2**63


def _save_epoch(
    state: TrainState, output: Path, card: Card, identity: Mapping[str, Any], *, validated: bool
) -> None:
    """Checkpoints first, the state that points at them last."""
    row = state.history[-1]
    quality = row.get("validation_mAP")
    # Without the time it took: equal trainings leave equal checkpoints.
    card = replace(card, metrics={name: row[name] for name in row if name != "seconds"})
    weights = state.average.state_dict()
    save_checkpoint(output / "last.safetensors", weights, card)
    if not validated or (quality is not None and quality > state.best):
        state.best = state.best if quality is None else quality
        save_checkpoint(output / "best.safetensors", weights, card)
    write_log(output / "log.csv", state.history)
    _save_state(state, output, identity)


def _clear(output: Path) -> None:
    """Make room for a new run; an unfinished one is worth more than a forgotten ``--resume``."""
    place = output / "state.json"
    if not place.exists():
        return
    saved = json.loads(place.read_text(encoding="utf-8"))
    if saved["epoch"] < saved["settings"]["epochs"]:
        raise UsageError(
            f"{output} holds a training that stopped after epoch {saved['epoch']} of "
            f"{saved['settings']['epochs']}",
            hint=f"continue it with --resume, name another output.folder, or delete {place}",
        )
    place.unlink()
    for name in ("best", "last"):
        (output / f"{name}.safetensors").unlink(missing_ok=True)


def _save_state(state: TrainState, output: Path, identity: Mapping[str, Any]) -> None:
    tensors: dict[str, Tensor] = {}
    for name, value in state.model.state_dict().items():
        tensors[f"model/{name}"] = value
    for name, value in state.average.state_dict().items():
        tensors[f"average/{name}"] = value
    for index, entry in state.optimiser.state_dict()["state"].items():
        for name, value in entry.items():
            tensors[f"optimiser/{index}/{name}"] = value
    name = f"state-{state.epoch:05d}.safetensors"
    with atomic_path(output / name) as temporary:
        save_file({key: value.detach().cpu().contiguous() for key, value in tensors.items()},
                  temporary)  # fmt: skip
    write_json(
        output / "state.json",
        {
            "tensors": name,
            "iteration": state.iteration,
            "epoch": state.epoch,
            "best": state.best,
            "history": state.history,
            "settings": dict(identity),
        },
    )
    for old in output.glob("state-*.safetensors"):
        if old.name != name:
            old.unlink(missing_ok=True)


def _restore(state: TrainState, output: Path, identity: Mapping[str, Any]) -> None:
    """Continue a run, if there is one."""
    place = output / "state.json"
    if not place.exists():
        return
    saved = json.loads(place.read_text(encoding="utf-8"))
    # A setting that the run was made before has the value that changes nothing.
    usual = {entry.name: entry.default for entry in fields(TrainSettings)}
    made_with = {name: saved["settings"].get(name, usual.get(name)) for name in identity}
    changed = [name for name, value in identity.items() if made_with[name] != value]
    if changed:
        raise UsageError(
            f"the run in {output} was made with other values of {', '.join(changed)}",
            hint="use the same recipe, annotations and features (inputs are all of these but the "
            "sections optim and train), or another output.folder",
        )
    tensors = load_file(output / saved["tensors"])
    state.model.load_state_dict(_part(tensors, "model/"))
    state.average.load_state_dict(_part(tensors, "average/"))
    moments: dict[int, dict[str, Tensor]] = {}
    for key, value in _part(tensors, "optimiser/").items():
        index, name = key.split("/")
        moments.setdefault(int(index), {})[name] = value
    groups = state.optimiser.state_dict()["param_groups"]
    state.optimiser.load_state_dict({"state": moments, "param_groups": groups})
    state.iteration, state.epoch = saved["iteration"], saved["epoch"]
    state.best, state.history = saved["best"], saved["history"]


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith(prefix)
    }


def _settings_json(settings: TrainSettings) -> dict[str, Any]:
    values = asdict(settings)
    return {**values, "crop": list(settings.crop)}


def _line(row: Mapping[str, float], epochs: int) -> str:
    quality = f"  validation mAP {row['validation_mAP']:.4f}" if "validation_mAP" in row else ""
    terms = ", ".join(f"{name} {row[name]:.4f}" for name in LOSS_TERMS if name in row)
    return (
        f"epoch {int(row['epoch']):>3}/{epochs}  loss {row['loss']:.4f} ({terms})"
        f"  lr {row['lr']:.1e}{quality}"
    )
