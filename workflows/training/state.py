"""What a training changes from step to step: how it begins, and how it is kept and found again."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from model.build import Network
from model.checkpoint import Card, save_checkpoint
from model.perception import WindowAdaptation
from pipeline.core.atomic import atomic_path, write_json
from pipeline.core.errors import CheckpointError, UsageError
from workflows.training.log import write_log
from workflows.training.precision import compiled

STATE = "state.json"  # of a run; names the file with its tensors


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
    crop_margin: float = 0.0


@dataclass(slots=True)
class TrainState:
    """All that changes from one epoch to the next; what resume restores."""

    model: Network
    average: Network
    optimiser: torch.optim.Optimizer
    forward: Callable[..., Any]  # the model, or its compiled form over the same weights
    followed: tuple[list[Tensor], list[Tensor]] = field(init=False)  # tensors of mean and model
    iteration: int = 0
    epoch: int = 0
    best: float = -1.0
    history: list[dict[str, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        """List the tensors once: with their names it takes as long as to follow them."""
        self.followed = (
            list(self.average.state_dict().values()),
            list(self.model.state_dict().values()),
        )


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
    # One loop over all tensors in compiled code: a small network has as many as a large one.
    return TrainState(model, average, kind(groups, lr=settings.lr, fused=True), forward)


def save_epoch(
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


def clear(output: Path) -> None:
    """Make room for a new run; an unfinished one is worth more than a forgotten ``--resume``.

    Raises:
        UsageError: There is an unfinished one.
        CheckpointError: Its state is damaged.
    """
    place = output / STATE
    saved = _read_state(place)
    if saved is None:
        return
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
        output / STATE,
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


def restore(state: TrainState, output: Path, identity: Mapping[str, Any]) -> None:
    """Continue a run, if there is one.

    Raises:
        UsageError: It was made with other settings or inputs.
        CheckpointError: Its state is damaged.
    """
    place = output / STATE
    saved = _read_state(place)
    if saved is None:
        return
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
    try:
        tensors = load_file(output / saved["tensors"])
    except (SafetensorError, OSError) as error:
        raise _damaged(output / saved["tensors"], place, error) from error
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


def _read_state(place: Path) -> dict[str, Any] | None:
    """What a run left; None where there is none."""
    try:
        saved: dict[str, Any] = json.loads(place.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise _damaged(place, place, error) from error
    return saved


def _damaged(file: Path, place: Path, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"the training in {place.parent} cannot be continued, {file} is missing or damaged: "
        f"{error}",
        hint=f"copy it again, or delete {place} to start anew",
    )


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith(prefix)
    }


def settings_json(settings: TrainSettings) -> dict[str, Any]:
    """Settings as plain values, as a state keeps them."""
    values = asdict(settings)
    return {**values, "crop": list(settings.crop)}
