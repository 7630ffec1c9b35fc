"""Whether there are features for every annotated video, complete and of the right length.

The length to expect is that of the grid for the annotated duration, see
`extractors.windows.WindowGrid.steps`; it may be missed by the layout's slack (a second, for
ActivityNet two), as streams end before their container does and decoders lose frames.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from extractors.features import Features
from extractors.layouts.arrays import FaultKind
from extractors.layouts.table import LAYOUTS, UNAV_SLACK_S
from extractors.layouts.video import Fault, VideoReader, length_slack
from extractors.spec import MODALITIES
from extractors.storage.finite import first_bad_step
from extractors.storage.store import FeatureStore
from pipeline.core.errors import StoreError
from workflows.annotations import VideoLabels
from workflows.data_check import some_lines
from workflows.matching import list_some, match_ids

# Kind of a fault -> how it is counted for people.
WORDS: Mapping[FaultKind, str] = {
    "missing": "a modality is missing",
    "unreadable": "unreadable",
    "type": "wrong type",
    "shape": "wrong shape",
    "length": "wrong length",
    "value": "NaN, infinite or too large values",
    "store": "damaged in the store",
}


@dataclass(frozen=True, slots=True)
class FeatureReport:
    """What was found in a folder of features or a store.

    Attributes:
        path: The folder.
        backbone: What the features are.
        annotated: Number of videos that should be there.
        missing: Ids of annotated videos without any features.
        faults: What is wrong with those that are there, by id.
        extra: Ids of features that no annotated video has.
        unusable: Files whose name makes no id, and why.
        others: Number of files of no part of the layout.
        values: Whether values were looked at.
    """

    path: Path
    backbone: str
    annotated: int
    missing: tuple[str, ...]
    faults: Mapping[str, tuple[Fault, ...]] = field(repr=False)
    extra: tuple[str, ...] = field(repr=False)
    unusable: Mapping[str, str] = field(default_factory=dict)
    others: int = 0
    values: bool = True

    @property
    def exit_code(self) -> int:
        """1 where features are missing or wrong; extra ones are no mistake."""
        return int(bool(self.missing or self.faults or self.unusable))

    @property
    def counts(self) -> dict[str, int]:
        """Number of videos by kind of fault; a video may have several."""
        found = Counter(
            kind for faults in self.faults.values() for kind in {f.kind for f in faults}
        )
        return {kind: found[kind] for kind in WORDS if found[kind]}

    def to_json(self) -> dict[str, Any]:
        """The report as plain values."""
        return {
            "path": str(self.path),
            "backbone": self.backbone,
            "annotated": self.annotated,
            "values_checked": self.values,
            "missing": list(self.missing),
            "extra": list(self.extra),
            "unusable_names": dict(self.unusable),
            "other_files": self.others,
            "counts": self.counts,
            "faults": {
                id: [{"kind": f.kind, "file": f.file, "reason": f.reason} for f in faults]
                for id, faults in self.faults.items()
            },
        }

    def format_table(self) -> str:
        """The report for a terminal."""
        right = self.annotated - len(self.missing) - len(self.faults)
        lines = [str(self.path), f"  {self.backbone}: {right} of {self.annotated} videos are right"]
        if self.missing:
            lines.append(f"  {len(self.missing)} have no features")
        lines += [f"  {count} {WORDS[kind]}" for kind, count in _typed(self.counts)]
        lines += some_lines("missing", self.missing)
        wrong = [
            f"{id}: {'; '.join(str(fault) for fault in faults)}"
            for id, faults in self.faults.items()
        ]
        lines += some_lines("wrong", wrong)
        lines += some_lines("wrong", [f"{name}: {why}" for name, why in self.unusable.items()])
        if self.extra:
            lines.append(f"  note: {len(self.extra)} are not annotated: {list_some(self.extra)}")
        if self.others:
            lines.append(f"  note: {self.others} files are none of the layout's")
        if not self.values:
            lines.append("  note: only headers were looked at, not values")
        return "\n".join(lines)


def _typed(counts: Mapping[str, int]) -> Iterator[tuple[FaultKind, int]]:
    for kind in WORDS:
        if kind in counts:
            yield kind, counts[kind]


def check_files(
    reader: VideoReader,
    videos: Mapping[str, VideoLabels],
    *,
    values: bool = True,
    progress: Callable[[], None] = lambda: None,
) -> FeatureReport:
    """Check a folder of feature files.

    Args:
        reader: Reads the folder.
        videos: The annotated videos by id.
        values: Whether to read the values, too, or the headers alone.
        progress: Called after each video.

    Raises:
        ConfigError: An id fits several videos.
    """
    found = reader.found
    matched, missing = match_ids(videos, found.videos)
    faults: dict[str, tuple[Fault, ...]] = {}
    for id, name in matched.items():
        wrong = reader.faults(name, videos[id].duration, values=values)
        if wrong:
            faults[id] = tuple(wrong)
        progress()
    return FeatureReport(
        path=found.folder,
        backbone=reader.spec.name,
        annotated=len(videos),
        missing=tuple(missing),
        faults=faults,
        extra=_extra(matched, found.videos),
        unusable=found.unusable,
        others=len(found.others),
        values=values,
    )


def check_store(
    store: FeatureStore,
    videos: Mapping[str, VideoLabels],
    *,
    slack: float | None = None,
    values: bool = True,
    progress: Callable[[], None] = lambda: None,
) -> FeatureReport:
    """Check a feature store.

    Args:
        store: The store.
        videos: The annotated videos by id.
        slack: Seconds by which a length may miss the duration; None for that of the layout that the
            features came in.
        values: Whether to read the values, too, or the records alone.
        progress: Called after each video.

    Raises:
        ConfigError: An id fits several videos.
    """
    if slack is None:
        layout = LAYOUTS.get(store.spec.name)
        slack = UNAV_SLACK_S if layout is None else layout.slack
    known = store.ids()
    matched, missing = match_ids(videos, known)
    faults: dict[str, tuple[Fault, ...]] = {}
    for id, name in matched.items():
        wrong = list(_stored_faults(store, name, videos[id].duration, slack=slack, values=values))
        if wrong:
            faults[id] = tuple(wrong)
        progress()
    return FeatureReport(
        path=store.path,
        backbone=store.spec.name,
        annotated=len(videos),
        missing=tuple(missing),
        faults=faults,
        extra=_extra(matched, known),
        values=values,
    )


def _extra(matched: Mapping[str, str], known: Mapping[str, Any] | list[str]) -> tuple[str, ...]:
    used = set(matched.values())
    return tuple(name for name in known if name not in used)


def _stored_faults(
    store: FeatureStore, id: str, duration: float | None, *, slack: float, values: bool
) -> Iterator[Fault]:
    try:
        features = store.read(id)
    except StoreError as error:
        yield Fault("store", "", error.message)
        return
    for modality in MODALITIES:
        if not features[f"{modality}_mask"].any():
            yield Fault("missing", "", f"{modality} is masked in all steps")
    if duration is not None:
        steps, expected = features.steps, features.grid.steps(duration)
        allowed = length_slack(store.spec, slack)
        if abs(steps - expected) > allowed:
            yield Fault(
                "length",
                "",
                f"has {steps} steps, {duration:g} s give {expected}; they may differ by {allowed} "
                f"({slack:g} s)",
            )
    if values:
        yield from _bad_values(features)


def _bad_values(features: Features) -> Iterator[Fault]:
    for modality in MODALITIES:
        step = first_bad_step(features, modality)
        if step is not None:
            yield Fault("value", "", f"{modality} is not finite in step {step}")
