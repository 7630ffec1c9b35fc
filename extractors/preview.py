"""A backbone as it would be loaded, for a dry run: what would be downloaded is said, not done."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from extractors.hf.model import find_hf_models, is_hf, spec_of
from extractors.onepeace.conversions import are_converted, conversions_of
from extractors.registry import backbone_spec
from extractors.spec import BackboneSpec, WeightsFile
from extractors.weights.addresses import addresses_of
from extractors.weights.check import describe_size
from extractors.weights.find import locate_weights
from extractors.weights.network import is_offline, mirrors, network
from extractors.weights.watch import OnStandardError, Watcher
from pipeline.core.errors import EnvironmentFault


def preview_spec(
    name: str,
    *,
    weights_dir: str | os.PathLike[str] | None = None,
    offline: bool | None = None,
    watch: Watcher | None = None,
) -> BackboneSpec:
    """Description of a backbone, the same as after its weights were downloaded.

    Of models of ``hf:<vision>+<audio>`` only the small files that describe them are fetched; of
    their weights the hub says size and hash.

    Args:
        name: The backbone.
        weights_dir: Folder in which weights are looked for first.
        offline: Whether the network is forbidden; None leaves it to ``PIPELINE_OFFLINE``.
        watch: Is told what would be downloaded; None says it on standard error.

    Raises:
        UsageError: Unknown name, or a model is no encoder of its modality.
        EnvironmentFault: A model of ``hf:<vision>+<audio>`` is missing and the hub does not say
            what it is, or may not be asked.
    """
    folder = None if weights_dir is None else Path(weights_dir)
    with network(offline=offline):
        if is_hf(name):
            models = find_hf_models(name, weights_dir=folder, need="description")
            spec = spec_of(name, models)
            missing = [file for model in models.values() for file in model.folder.missing]
            _refuse_without_hash(missing)
        else:
            spec = backbone_spec(name)
            missing = _missing(spec, folder)
        _tell(missing, watch or OnStandardError())
    return spec


def _missing(spec: BackboneSpec, weights_dir: Path | None) -> list[WeightsFile]:
    """Weights files that are not on this machine, in no form."""
    files = {file.file: file for file in (*spec.vision.files, *spec.audio.files)}
    made = conversions_of(spec)
    return [
        file
        for file in files.values()
        if locate_weights(file, weights_dir=weights_dir) is None
        and not are_converted(made.get(file.file, ()), weights_dir=weights_dir)
    ]


def _refuse_without_hash(missing: Sequence[WeightsFile]) -> None:
    for file in missing:
        if not file.sha256:
            raise EnvironmentFault(
                f"the hub does not say the hash of {file.file} ({file.source}), which a store of "
                "its features is bound to",
                hint="fetch the model first, with hf download ORG/NAME",
            )


def _tell(missing: Sequence[WeightsFile], watch: Watcher) -> None:
    forbidden = is_offline()
    groups: dict[str, list[str]] = {}
    for file in missing:
        from_hub = file.source.startswith("hub:")
        reachable = not forbidden and (from_hub or bool(addresses_of(file, mirrors=mirrors())))
        verb = "would download, once" if reachable else "would fail for lack of"
        words = f"{file.file} ({describe_size(file)}, {file.licence}, from {file.source})"
        groups.setdefault(verb, []).append(words)
    for verb, files in groups.items():
        watch.say(f"{verb}: {', '.join(files)}")
