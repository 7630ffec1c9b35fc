"""The two encoders of open vocabulary: which, what they cost to fetch, and what to do without."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

from extractors.hf.model import HfModel, find_hf_models, text_tower
from extractors.media.video import ReaderChoice
from extractors.registry import load_backbone
from extractors.spec import HF_PREFIX, MODALITIES, Modality
from extractors.text import TextEncoder, load_text_encoder
from extractors.weights.watch import OnStandardError, Watcher
from pipeline.core.errors import EnvironmentFault
from workflows.detection.agreement import lite_table
from workflows.detection.open_vocabulary import OpenVocabularyDetector, OpenVocabularySettings
from workflows.detection.prompts import free_labels, says_the_same


@dataclass(frozen=True, slots=True)
class PublishedEncoder:
    """What the page of a published model says of it.

    Attributes:
        name: Its name on the hub.
        about_bytes: Size of its weights file.
        licence: SPDX name.
    """

    name: str
    about_bytes: int
    licence: str

    def __str__(self) -> str:
        return f"{self.name} (about {self.about_bytes / 1e6:.0f} MB, {self.licence})"


# Small enough for a laptop, with a licence that is stated, with weights in the safetensors format,
# and with tokenizers that need no further package. Sizes and licences are those of the pages of the
# models and, for the size of the picture model, of copies of the same checkpoint. Of CLAP's commits
# only this one is known to have safetensors.
DEFAULTS: Mapping[Modality, PublishedEncoder] = MappingProxyType(
    {
        "vision": PublishedEncoder("laion/CLIP-ViT-B-32-laion2B-s34B-b79K", 605_000_000, "MIT"),
        "audio": PublishedEncoder(
            "laion/clap-htsat-fused@0ebdccc578498c90ecb34353b57d2f197cae6e0a",
            614_000_000,
            "Apache-2.0",
        ),
    }
)
DEFAULT_BACKBONE = HF_PREFIX + "+".join(DEFAULTS[modality].name for modality in MODALITIES)


def load_open_vocabulary(
    labels: Sequence[str] | None = None,
    *,
    backbone: str | None = None,
    device: str = "auto",
    min_score: float | None = None,
    reader: ReaderChoice = "auto",
    weights_dir: str | os.PathLike[str] | None = None,
    watch: Watcher | None = None,
) -> OpenVocabularyDetector:
    """Load the detector; encoders that are not on this machine are downloaded, which is said.

    Args:
        labels: What to look for, any text; None for the hundred classes of UnAV-100.
        backbone: ``hf:<vision>+<audio>``; None for `DEFAULT_BACKBONE`.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        min_score: Weaker events are left out; None for the detector's own choice.
        reader: Video reader.
        weights_dir: Folder in which the encoders are looked for first.
        watch: Is told what will be downloaded; None says it on standard error.

    Raises:
        UsageError: A label names nothing; the backbone is no pair of encoders that share a space
            with texts.
        EnvironmentFault: An encoder is not on this machine and cannot be fetched.
    """
    wanted = None if labels is None else free_labels(labels)
    settings = OpenVocabularySettings()
    if min_score is not None:
        settings = replace(settings, min_score=min_score)
    name = backbone or DEFAULT_BACKBONE
    try:
        _announce(_described(name, weights_dir), watch or OnStandardError())
        loaded = load_backbone(name, device=device, weights_dir=weights_dir)

        def text(modality: Modality) -> TextEncoder:
            return load_text_encoder(name, which=modality, device=device, weights_dir=weights_dir)

        return OpenVocabularyDetector(loaded, text, labels=wanted, settings=settings, reader=reader)
    except EnvironmentFault as fault:
        raise EnvironmentFault(fault.message, hint=_way_out(fault.hint, wanted)) from fault


def agreement_knows(labels: Sequence[str]) -> dict[str, str]:
    """Labels that the agreement detector knows by this or a like name: label to its name."""
    table = {name.casefold(): name for name in lite_table().labels}
    known = {}
    for label in labels:
        wanted = label.casefold()
        same = [name for name in table if says_the_same(wanted, name)]
        like = sorted(same, key=lambda name: name != wanted)
        like += difflib.get_close_matches(wanted, table, n=1, cutoff=0.8)
        if like:
            known[label] = table[like[0]]
    return known


def _described(name: str, weights_dir: str | os.PathLike[str] | None) -> list[HfModel]:
    """Both encoders, before their weights are fetched.

    Raises:
        UsageError: One of them shares no space with texts.
        EnvironmentFault: One is not on this machine, and the hub does not answer or may not be
            asked.
    """
    folder = None if weights_dir is None else Path(weights_dir)
    models = find_hf_models(name, weights_dir=folder, need="description")
    for model in models.values():
        text_tower(model, name)
    return list(models.values())


def _announce(models: Sequence[HfModel], watch: Watcher) -> None:
    """Say what is about to be downloaded, how large it is, and under which licence."""
    missing = []
    for model in models:
        if model.folder.missing and model.folder.hub is not None:
            text = model.folder.hub.text
            known = next((row for row in DEFAULTS.values() if row.name == text), None)
            size = sum(file.bytes for file in model.folder.missing)
            words = f"{size / 1e6:.0f} MB, licence: see its page" if size else "see its page"
            missing.append(str(known or f"{text} ({words})"))
    if missing:
        watch.say(
            "open vocabulary needs encoders that are not on this machine; downloading from the "
            f"Hugging Face hub, once: {', '.join(missing)}"
        )


def _way_out(hint: str | None, labels: Sequence[str] | None) -> str | None:
    """What a user can do who cannot have the encoders."""
    ways = [hint] if hint else []
    known = agreement_knows(labels) if labels else {}
    if labels is None:
        ways.append("or use --method agreement, which needs no download")
    elif known:
        named = ", ".join(
            repr(name) if name.casefold() == label.casefold() else f"{name!r} for {label!r}"
            for label, name in known.items()
        )
        ways.append(f"or use --method agreement, which needs no download and knows {named}")
    return "; ".join(ways) or None
