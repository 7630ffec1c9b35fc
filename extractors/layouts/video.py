"""One video of a foreign layout: its arrays checked, joined, and placed on the grid.

The public loaders cut picture and sound to the shorter of the two. Here both are kept: a video has
as many steps as the longer one, and a mask says where each has features; ``shorter`` cuts as they
do.

Shapes: T steps, D values.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from extractors.features import Rows, Summary
from extractors.layouts.arrays import (
    ArrayFault,
    ArrayHeader,
    FaultKind,
    read_array,
    read_array_header,
)
from extractors.layouts.table import FoundVideos, Layout
from extractors.spec import MODALITIES, BackboneSpec, Modality

Lengths = Literal["keep", "shorter"]
Missing = Literal["error", "mask"]


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a video cannot be used.

    Attributes:
        kind: For counting.
        file: Relative path of the file, with the key of an npz file; empty for the video itself.
        reason: What is wrong.
    """

    kind: FaultKind
    file: str
    reason: str

    def __str__(self) -> str:
        return f"{self.file}: {self.reason}" if self.file else self.reason


@dataclass(frozen=True, slots=True)
class LoadedVideo:
    """A video that can be used.

    Attributes:
        rows: Its arrays and masks.
        summary: Duration, steps, notes.
        double: Whether values of double precision were rounded to single precision.
        difference: Steps by which picture and sound differed; 0 where one is missing.
        missing: The modality that is missing, if one is.
    """

    rows: Rows = field(repr=False)
    summary: Summary
    double: bool
    difference: int
    missing: Modality | None


@dataclass(frozen=True, slots=True)
class VideoReader:
    """Reads videos of one folder.

    Attributes:
        found: The folder's files.
        spec: What the features are; says grid and widths.
        lengths: ``keep`` both modalities as they are, or cut both to the ``shorter``.
        missing: A missing modality is an ``error``, or ``mask``ed in all steps.
    """

    found: FoundVideos
    spec: BackboneSpec
    lengths: Lengths = "keep"
    missing: Missing = "error"

    @property
    def layout(self) -> Layout:
        """The layout of the folder."""
        return self.found.layout

    def faults(self, id: str, duration: float | None, *, values: bool = True) -> list[Fault]:
        """All that is wrong with a video.

        Args:
            id: The video.
            duration: Its seconds, if they are known.
            values: Whether to read the values too, instead of the headers alone.
        """
        headers, faults = self._headers(id)
        if not faults:
            faults = self._disagreements(headers, duration)
        if values and not faults:
            faults = self._arrays(id, headers)[1]
        return faults

    def load(self, id: str, duration: float | None) -> LoadedVideo | list[Fault]:
        """A video, or all that is wrong with it.

        Args:
            id: The video.
            duration: Its seconds; None takes the end of the last window.
        """
        headers, faults = self._headers(id)
        faults = faults or self._disagreements(headers, duration)
        if faults:
            return faults
        arrays, faults = self._arrays(id, headers)
        if faults:
            return faults
        joined: dict[Modality, NDArray[np.float32]] = {}
        for modality in MODALITIES:
            parts = [arrays[number] for number in self.layout.of(modality) if number in arrays]
            if parts:
                shortest = min(map(len, parts))
                joined[modality] = np.concatenate([part[:shortest] for part in parts], axis=1)
        return self._place(joined, headers, duration)

    def _name(self, number: int, id: str) -> str:
        part = self.layout.parts[number]
        return f"{part.path(id)}:{part.key}" if part.key else part.path(id)

    def _headers(self, id: str) -> tuple[dict[int, ArrayHeader], list[Fault]]:
        """Headers by number of the part, and what is wrong with them one by one."""
        files = self.found.videos.get(id, {})
        headers: dict[int, ArrayHeader] = {}
        faults: dict[int, Fault] = {}
        for number, part in enumerate(self.layout.parts):
            try:
                if part.pattern not in files:
                    raise ArrayFault("missing", f"the {part.modality} file is missing")
                header = read_array_header(files[part.pattern], part.key)
                _check_width(header, part.dim)
                headers[number] = header
            except ArrayFault as fault:
                faults[number] = Fault(fault.kind, self._name(number, id), fault.reason)
        if self.missing == "mask" and headers:
            for modality in MODALITIES:
                numbers = self.layout.of(modality)
                # Of several files of a modality, all must be away: half a feature is none.
                if all(n in faults and faults[n].kind == "missing" for n in numbers):
                    faults = {n: fault for n, fault in faults.items() if n not in numbers}
        return headers, list(faults.values())

    def _disagreements(
        self, headers: Mapping[int, ArrayHeader], duration: float | None
    ) -> list[Fault]:
        """Lengths that do not fit together or to the duration."""
        faults = []
        steps: dict[Modality, int] = {}
        for modality in MODALITIES:
            lengths = {
                self.layout.parts[number].place: headers[number].shape[0]
                for number in self.layout.of(modality)
                if number in headers
            }
            if len(set(lengths.values())) > 1 and self.lengths == "keep":
                said = ", ".join(f"{place} has {count}" for place, count in lengths.items())
                faults.append(Fault("length", "", f"its {modality} arrays differ in steps: {said}"))
            elif lengths:
                steps[modality] = min(lengths.values())
        return faults + [Fault("length", "", reason) for reason in self._strange(steps, duration)]

    def _strange(self, steps: Mapping[Modality, int], duration: float | None) -> Iterator[str]:
        """What is unlikely about the numbers of steps."""
        slack = length_slack(self.spec, self.layout.slack)
        limit = f"they may differ by {slack} ({self.layout.slack:g} s)"
        if duration is not None:
            expected = self.spec.grid.steps(duration)
            for modality, count in steps.items():
                if abs(count - expected) > slack:
                    yield f"{modality} has {count} steps, {duration:g} s give {expected}; {limit}"
        elif len(steps) == 2 and abs(steps["vision"] - steps["audio"]) > slack:
            yield f"vision has {steps['vision']} steps and audio {steps['audio']}; {limit}"

    def _arrays(
        self, id: str, headers: Mapping[int, ArrayHeader]
    ) -> tuple[dict[int, NDArray[np.float32]], list[Fault]]:
        files, arrays, faults = self.found.videos[id], {}, []
        for number in headers:
            part = self.layout.parts[number]
            try:
                arrays[number] = read_array(files[part.pattern], part.key)
            except ArrayFault as fault:
                faults.append(Fault(fault.kind, self._name(number, id), fault.reason))
        return arrays, faults

    def _place(
        self,
        joined: Mapping[Modality, NDArray[np.float32]],
        headers: Mapping[int, ArrayHeader],
        duration: float | None,
    ) -> LoadedVideo:
        """Both modalities side by side, with masks."""
        counts = {modality: len(array) for modality, array in joined.items()}
        steps = min(counts.values()) if self.lengths == "shorter" else max(counts.values())
        difference = abs(counts["vision"] - counts["audio"]) if len(counts) == 2 else 0
        missing = next((modality for modality in MODALITIES if modality not in joined), None)
        double = any(header.dtype.itemsize == 8 for header in headers.values())
        rows: Rows = {}
        for modality in MODALITIES:
            encoder = self.spec.vision if modality == "vision" else self.spec.audio
            values: NDArray[Any] = np.zeros((steps, encoder.dim), np.float32)
            count = min(steps, counts.get(modality, 0))
            if count:
                values[:count] = joined[modality][:count]
            rows[modality] = values
            rows[f"{modality}_mask"] = np.arange(steps) < count
        notes = list(_notes(counts, steps, double=double, known=duration is not None))
        summary = Summary(
            duration=self.spec.grid.span(steps - 1)[1] if duration is None else float(duration),
            steps=steps,
            coverage={name: min(1.0, count / steps) for name, count in counts.items()},
            readers=dict.fromkeys(counts, f"imported from the layout {self.layout.name}"),
            status="done",
            notes=tuple(notes),
        )
        return LoadedVideo(rows, summary, double, difference, missing)


def length_slack(spec: BackboneSpec, seconds: float) -> int:
    """Steps by which a length may miss what is expected, for so many seconds; one at least."""
    return max(1, round(seconds / spec.grid.step_seconds))


def _check_width(header: ArrayHeader, dim: int | None) -> None:
    if dim is None or header.shape[1] == dim:
        return
    turned = "; it lies the other way round" if header.shape[0] == dim else ""
    raise ArrayFault("shape", f"has the shape {header.shape}, not (steps, {dim}){turned}")


def _notes(counts: Mapping[Modality, int], steps: int, *, double: bool, known: bool) -> list[str]:
    notes = []
    for modality in MODALITIES:
        if modality not in counts:
            notes.append(f"{modality} is missing")
    if len(set(counts.values())) > 1:
        said = f"picture had {counts['vision']} steps, sound {counts['audio']}"
        notes.append(f"{said}; cut to {steps}" if steps == min(counts.values()) else said)
    if double:
        notes.append("double precision was rounded to single precision")
    if not known:
        notes.append("the duration is the end of the last window")
    return notes
