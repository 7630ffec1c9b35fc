"""``hf:<vision>+<audio>``: encoders of the ``transformers`` library, on any grid.

Each half is the id of a model on the Hugging Face hub (``openai/clip-vit-base-patch32``, with
``@revision`` where a certain one is meant) or the path of a folder (``./my-clip``). Picture nets
that see single frames are run once per frame and averaged over the frames of a window. Video nets
see all frames of each window, or, where they take fewer, so many that are spread evenly over it
(`extractors.windows.even_frames`); sound nets hear its sound. Preprocessing is that of the model's
own processor.

What a store is bound to is the content: the weights' hashes, the model's configuration and its
processor's settings. A folder may be moved, or be a copy of what the hub has, without another
digest; other weights of the same name have another one.

A description is made from the model's files, so they must be on this machine or are fetched; torch
is loaded by `extractors.hf.backbone.HfLoader`.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from extractors.grids import GRIDS, grid_of, split_name
from extractors.hf.families import FAMILIES, Family, TextTower, family_names
from extractors.hf.files import (
    ModelFolder,
    ModelName,
    Need,
    find_model,
    find_weights_of,
    parse_model_name,
)
from extractors.hf.hub import CONFIG, PROCESSOR_FILES
from extractors.hf.weights import read_settings
from extractors.media.resampling import KAISER_BEST_WORDS
from extractors.spec import HF_PREFIX, MODALITIES, BackboneSpec, EncoderSpec, Modality
from extractors.windows import WindowGrid
from pipeline.core.errors import EnvironmentFault, UsageError

FORM = f"{HF_PREFIX}<vision>+<audio>"
EXAMPLE = f"{HF_PREFIX}openai/clip-vit-base-patch32+laion/clap-htsat-unfused"

# Settings that say where a model came from or what it is called, not what it computes.
_BOOKKEEPING = frozenset(
    {
        "_name_or_path",
        "_commit_hash",
        "transformers_version",
        "architectures",
        "auto_map",
        "dtype",
        "torch_dtype",
        "processor_class",
        "_processor_class",
        "image_processor_type",
        "feature_extractor_type",
        "id2label",
        "label2id",
    }
)
_KINDS: Mapping[Modality, str] = {"vision": "image_processor", "audio": "feature_extractor"}


@dataclass(frozen=True, slots=True)
class HfModel:
    """One model, found and understood.

    Attributes:
        family: Its architecture.
        folder: Where it lies.
        spec: Its description.
        sample_rate: Sound samples a second that it hears; 0 for pictures.
    """

    family: Family
    folder: ModelFolder
    spec: EncoderSpec
    sample_rate: int


def is_hf(name: str) -> bool:
    """Whether a backbone's name is meant to be one of these, on whatever grid."""
    return split_name(name)[1].startswith(HF_PREFIX)


def parse_hf_name(name: str) -> dict[Modality, ModelName]:
    """The two models that a backbone's name names.

    A ``+`` may also be part of a folder's name, as long as one reading only makes sense.

    Raises:
        UsageError: The name has not this form, or can be read in several ways.
    """
    body = split_name(name)[1].removeprefix(HF_PREFIX)
    splits = []
    for place in (found.start() for found in re.finditer(r"\+", body)):
        models = parse_model_name(body[:place]), parse_model_name(body[place + 1 :])
        if models[0] is not None and models[1] is not None:
            splits.append((models[0], models[1]))
    if len(splits) > 1:
        # Folders that are there beat folders that are not.
        there = [pair for pair in splits if all(_is_there(model) for model in pair)]
        splits = there or splits
    if len(splits) != 1:
        why = "can be read in several ways" if splits else "is no pair"
        raise UsageError(
            f"backbone {name!r} {why}",
            hint=f"the form is {FORM}: two ids of the hub, or paths of folders that begin with / "
            f"or ./, for example {EXAMPLE}",
        )
    return dict(zip(MODALITIES, splits[0], strict=True))


def full_hf_name(name: str) -> str:
    """The name with absolute paths, so that it means the same in every folder.

    Raises:
        UsageError: The name has another form, or can be read in several ways.
    """
    names = parse_hf_name(name)
    pair = "+".join(names[modality].text for modality in MODALITIES)
    return f"{split_name(name)[0]}{HF_PREFIX}{pair}"


def find_hf_model(
    name: str, modality: Modality, *, weights_dir: Path | None = None, need: Need = "files"
) -> HfModel:
    """One of the two models of a backbone; a wrong one is refused before its weights are fetched.

    Args:
        name: The backbone's name.
        modality: Which.
        weights_dir: Folder in which models are looked for first.
        need: With ``description``, weights that are missing are not fetched: the hub says what they
            are, and ``folder.missing`` names them.

    Raises:
        UsageError: The name has another form, or the model is no encoder of that modality.
        EnvironmentFault: The model is missing and cannot be fetched, or is incomplete.
    """
    return _with_weights(_recognise(name, modality, weights_dir), need)


def find_hf_models(
    name: str, *, weights_dir: Path | None = None, need: Need = "files"
) -> dict[Modality, HfModel]:
    """Both models of a backbone; no weights are fetched before both are known to be right ones.

    Args:
        name: The backbone's name.
        weights_dir: Folder in which models are looked for first.
        need: See `find_hf_model`.

    Raises:
        UsageError: The name has another form, or a model is no encoder of its modality.
        EnvironmentFault: A model is missing and cannot be fetched, or is incomplete.
    """
    seen = {modality: _recognise(name, modality, weights_dir) for modality in MODALITIES}
    return {modality: _with_weights(found, need) for modality, found in seen.items()}


def hf_spec(name: str, *, weights_dir: Path | None = None, need: Need = "files") -> BackboneSpec:
    """Description of a backbone, from the files of its two models; they are fetched if missing.

    The name in it is that of `full_hf_name`.

    Args:
        name: The backbone's name.
        weights_dir: Folder in which models are looked for first.
        need: See `find_hf_model`.

    Raises:
        UsageError: The name has another form, or a model is no encoder of its modality.
        EnvironmentFault: A model is missing and cannot be fetched, or is incomplete.
    """
    return spec_of(name, find_hf_models(name, weights_dir=weights_dir, need=need))


def spec_of(name: str, models: Mapping[Modality, HfModel]) -> BackboneSpec:
    """Description of a backbone of two models that were found.

    Raises:
        UsageError: The name has another form.
    """
    vision, audio = (models[modality].spec for modality in MODALITIES)
    return BackboneSpec(name=full_hf_name(name), grid=grid_of(name), vision=vision, audio=audio)


def text_tower(model: HfModel, backbone: str) -> TextTower:
    """The text side of a model.

    Args:
        model: One of the two models of a backbone.
        backbone: Its name, for the message.

    Raises:
        UsageError: The model was not trained with texts.
    """
    family = model.family
    if family.text is None:
        able = ", ".join(
            name for name, row in FAMILIES.items() if row.text and row.modality == family.modality
        )
        raise UsageError(
            f"the {family.modality} encoder of {backbone!r}, a {family.model_type}, has no text "
            "tower",
            hint=f"architectures that have one: {able}",
        )
    return family.text


@dataclass(frozen=True, slots=True)
class _Recognised:
    """A model of which everything is known but its weights."""

    folder: ModelFolder
    family: Family
    settings: dict[str, Any]
    grid: WindowGrid


def _recognise(name: str, modality: Modality, weights_dir: Path | None) -> _Recognised:
    model = parse_hf_name(name)[modality]
    folder = find_model(model, weights_dir=weights_dir)
    family, grid = _family(model, folder, modality), grid_of(name)
    if family.frames:
        _check_clip(model, family.clip_frames(folder.config), grid)
    return _Recognised(folder, family, _processor_settings(folder, modality), grid)


def _with_weights(found: _Recognised, need: Need) -> HfModel:
    family, settings = found.family, found.settings
    rate = int(settings.get("sampling_rate") or family.sample_rate)
    folder = find_weights_of(found.folder, need=need)
    spec = _encoder_spec(family, folder, settings, rate, found.grid)
    return HfModel(family, folder, spec, rate)


def _is_there(model: ModelName) -> bool:
    return model.folder is None or model.folder.is_dir()


def _family(model: ModelName, folder: ModelFolder, modality: Modality) -> Family:
    found = str(folder.config.get("model_type"))
    family = FAMILIES.get(found)
    if family is None or family.modality != modality:
        what = "unknown here" if family is None else f"an encoder of {family.modality}"
        raise UsageError(
            f"{model.text} cannot encode {modality}: its architecture {found!r} is {what}",
            hint=f"architectures for {modality}: {family_names(modality)}",
        )
    return family


def _check_clip(model: ModelName, frames: int, grid: WindowGrid) -> None:
    if 1 <= frames <= grid.window:
        return
    longer = [prefix for prefix, other in GRIDS.items() if 1 <= frames <= other.window]
    hint = f"take a video model of at most {grid.window} frames"
    if longer:
        hint += f", or another grid: {longer[0]}{FORM}"
    raise UsageError(
        f"{model.text} sees {frames} frames at once, a window has {grid.window}", hint=hint
    )


def _processor_settings(folder: ModelFolder, modality: Modality) -> dict[str, Any]:
    """Settings of the preprocessing: of a file of its own, or a part of the whole processor's."""
    for file in PROCESSOR_FILES:
        path = folder.path / file
        if not path.is_file():
            continue
        settings = read_settings(path)
        nested = settings.get(_KINDS[modality])
        if isinstance(nested, dict):
            return nested
        if file != PROCESSOR_FILES[0]:
            return settings
    raise EnvironmentFault(
        f"{folder.path} lacks the settings of its preprocessing ({' or '.join(PROCESSOR_FILES)})",
        hint="save the model's processor there, too, with its save_pretrained()",
    )


def _encoder_spec(
    family: Family,
    folder: ModelFolder,
    settings: Mapping[str, Any],
    rate: int,
    grid: WindowGrid,
) -> EncoderSpec:
    parts = [family.words]
    try:
        frames, dim = family.clip_frames(folder.config), family.dim(folder.config)
    except (ValueError, TypeError, AttributeError, OverflowError) as error:
        raise EnvironmentFault(
            f"{folder.path / CONFIG} is damaged: {error}", hint="download the model again"
        ) from error
    if frames and frames != grid.window:
        parts.append(f"{frames} frames spread evenly over the {grid.window} of a window")
    if family.modality == "audio":
        parts.append(f"read at {grid.sample_rate} Hz, {KAISER_BEST_WORDS}")
    if family.modality == "audio" and rate != grid.sample_rate:
        parts.append(f"each window resampled to {rate} Hz by torchaudio (Kaiser, width 64)")
    parts.append(f"settings {_mark(settings)}, configuration {_mark(folder.config)}")
    return EncoderSpec(
        name=f"{HF_PREFIX}{family.model_type}",
        modality=family.modality,
        dim=dim,
        classes=0,
        unit=family.unit,
        preprocessing="; ".join(parts),
        normalised=family.normalised,
        weights=folder.weights[0],
        short_sound=family.short_sound,
        more_weights=folder.weights[1:],
    )


def _mark(settings: Mapping[str, Any]) -> str:
    """Hash of settings, without what does not change a feature."""
    canonical = json.dumps(_essential(settings), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]


def _essential(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _essential(item) for key, item in value.items() if key not in _BOOKKEEPING}
    return value
