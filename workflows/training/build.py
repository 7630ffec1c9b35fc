"""From a recipe to the plain arguments of model, training and decoding: configuration ends here."""

from __future__ import annotations

import inspect
import shlex
from dataclasses import asdict
from typing import Any

import torch

from extractors.storage.store import FeatureStore
from model.activation import Recipe as ActivationRecipe
from model.build import Network, build_network
from model.checkpoint import Card
from model.clasp import CLASP
from model.decoding import DecodingSettings
from pipeline.recipe import Recipe
from workflows.annotations import Annotations
from workflows.training.state import TrainSettings
from workflows.weak.predict import LocalisationSettings


def architecture_of(
    recipe: Recipe, *, vision_dim: int, audio_dim: int, classes: int
) -> dict[str, Any]:
    """The recipe's arguments of its network; the three numbers come from features and labels."""
    sizes = {"vision_dim": vision_dim, "audio_dim": audio_dim, "classes": classes}
    model = asdict(recipe.model)
    if model.pop("method") == "clasp":
        known = inspect.signature(CLASP).parameters
        shared = {name: value for name, value in model.items() if name in known}
        return {**sizes, **shared, **asdict(recipe.clasp)}
    return {**sizes, **model, **asdict(recipe.loss)}


def build_model(recipe: Recipe, labels: Annotations, store: FeatureStore) -> tuple[Network, Card]:
    """Fresh weights under the recipe's seed, and the card of what will become of them."""
    architecture = architecture_of(
        recipe,
        vision_dim=store.spec.vision.dim,
        audio_dim=store.spec.audio.dim,
        classes=len(labels.classes),
    )
    torch.manual_seed(recipe.train.seed)
    card = Card(
        architecture,
        labels.classes,
        store.spec.to_json(),
        store.digest,
        data={
            "annotations": recipe.data.annotations.name,
            "train": recipe.data.train,
            "validation": recipe.data.validation,
            "modalities": recipe.data.modalities,
            "decoding": asdict(decoding_settings(recipe)),
            **_localisation_data(recipe),
            **_semi_weak_data(recipe),
        },
        licence=recipe.output.licence,
        command=training_command(recipe),
        method=recipe.model.method,
    )
    return build_network(recipe.model.method, **architecture), card


def training_command(recipe: Recipe) -> str:
    """What to type in a shell to train this recipe again; empty where it came from no file."""
    if recipe.source is None:
        return ""
    changes = [word for text in recipe.overrides for word in ("--set", text)]
    words = ["pipeline", "run", "--stage", "train", "--config", str(recipe.source), *changes]
    return shlex.join(words)


def train_settings(recipe: Recipe) -> TrainSettings:
    """The recipe's arguments of the training loop."""
    optim, shown = recipe.optim, recipe.train
    return TrainSettings(
        lr=optim.lr,
        min_lr=optim.min_lr,
        weight_decay=optim.weight_decay,
        epochs=optim.epochs,
        warmup_epochs=optim.warmup_epochs,
        batch_size=shown.batch_size,
        drop_last=shown.drop_last,
        clip=optim.clip,
        ema=optim.ema,
        seed=shown.seed,
        crop=(shown.crop[0], shown.crop[1]),
        keep=shown.keep,
        max_seq_len=recipe.model.max_seq_len,
        validate_every=shown.validate_every,
        optimiser=optim.optimiser,
        ema_warmup=optim.ema_warmup,
        validate_on=shown.validate_on,
        precision=shown.precision,
        compile=shown.compile,
        window_lr=optim.window_lr,
        crop_margin=shown.crop_margin,
    )


def decoding_settings(recipe: Recipe) -> DecodingSettings:
    """The recipe's arguments of decoding."""
    infer = recipe.infer
    return DecodingSettings(
        min_score=infer.min_score,
        per_level=infer.per_level,
        min_length=infer.min_length,
        sigma=infer.sigma,
        max_per_class=infer.max_per_class,
        max_total=infer.max_total,
        chunk=infer.chunk,
        overlap=infer.overlap,
    )


def localisation_settings(recipe: Recipe) -> LocalisationSettings:
    """The recipe's arguments from activation to events."""
    localise = asdict(recipe.localise)
    return LocalisationSettings(
        recipe=ActivationRecipe(**localise, min_score=recipe.infer.min_score),
        max_total=recipe.infer.max_total,
        pieces=decoding_settings(recipe),
    )


def _localisation_data(recipe: Recipe) -> dict[str, Any]:
    """What the card of a CLASP keeps of it."""
    return {"localise": asdict(recipe.localise)} if recipe.model.method == "clasp" else {}


def _semi_weak_data(recipe: Recipe) -> dict[str, Any]:
    """What the card says of training on few segments."""
    wanted = recipe.semi_weak
    given = wanted.teacher or not wanted.weak_videos
    if not given:
        return {}
    return {"strong": wanted.strong, "strong_fraction": wanted.strong_fraction}
