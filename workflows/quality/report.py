"""What the paper's quality analysis looks at (LoCo, section 4.5), measured on trained runs.

Cross-similarity of the two streams and its standard deviation over the test split (Fig. 4),
timelines of truth and detections (Fig. 5), and the windows that dynamic perception chose.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.core.errors import UsageError
from pipeline.core.events import sort_events
from pipeline.report.run_view import RunsView, RunView, VideoView
from workflows.quality.measure import Measured, measure_run
from workflows.quality.runs import Run, load_runs, recipe_differences

CARD_FACTS = ("command", "licence", "digest")


def report_runs(
    folders: Sequence[Path],
    *,
    videos: int = 4,
    chosen: Sequence[str] = (),
    limit: int = 0,
    device: str = "auto",
) -> RunsView:
    """Measure runs and gather everything that their page shows.

    Each model sees every video of the test split once, up to the length of a piece of decoding.

    Args:
        folders: Written by ``pipeline run``; the first is the one that the report is about.
        videos: How many test videos the page shows; they are spread evenly over the sorted ids of
            those with events, so that nobody picks them.
        chosen: Ids to show instead.
        limit: Measure similarity and windows on so many test videos only, spread likewise; 0 for
            all.
        device: Where the models run.

    Raises:
        UsageError: A folder holds no run, the runs are of other data or classes, or an id that
            was chosen is not in the test split.
        ConfigError: A file of a run is damaged.
        CheckpointError: A checkpoint is damaged.
    """
    runs = load_runs(folders)
    able = [run for run in runs if run.can_predict]
    ids, notes = _common_ids(able)
    shown = _shown_ids(able, ids, videos=videos, chosen=chosen)
    measured = _spread(ids, limit) if limit else ids
    found = {run.name: measure_run(run, measured, shown, device=device) for run in able}
    return RunsView(
        runs=tuple(_run_view(run, found.get(run.name)) for run in runs),
        videos=tuple(_video_view(id, runs, found) for id in shown),
        differences=recipe_differences(runs),
        measured=len(measured),
        notes=(*notes, *_cut_note(able, measured)),
    )


def _common_ids(able: Sequence[Run]) -> tuple[list[str], list[str]]:
    """Test videos of which all runs have features, and what to say of the others."""
    if not able:
        return [], []
    datas = [run.data for run in able if run.data is not None]
    common = sorted(set.intersection(*(set(data.ids) for data in datas)))
    notes = [
        f"{run.name}: {missing}"
        for run, data in zip(able, datas, strict=True)
        if (missing := data.describe_missing())
    ]
    return common, notes


def _shown_ids(
    able: Sequence[Run], ids: Sequence[str], *, videos: int, chosen: Sequence[str]
) -> list[str]:
    """Videos of the page."""
    unknown = [id for id in chosen if id not in set(ids)]
    if unknown and able:
        raise UsageError(
            f"there is no test video {unknown[0]!r} with features in every run",
            hint=f"ids look like {ids[0]!r}" if ids else "extract the features of the test split",
        )
    if chosen:
        return list(chosen) if able else []
    if not able:
        return []
    assert able[0].data is not None
    labels = able[0].data.videos
    return _spread([id for id in ids if labels[id].events], videos)


def _spread(ids: Sequence[str], count: int) -> list[str]:
    """So many of the ids at even distances."""
    if count >= len(ids):
        return list(ids)
    return [ids[(2 * place + 1) * len(ids) // (2 * count)] for place in range(count)]


def _cut_note(able: Sequence[Run], ids: Sequence[str]) -> list[str]:
    """Long videos are measured on their first piece only."""
    if not able or able[0].data is None:
        return []
    chunk = min(run.recipe.infer.chunk for run in able)
    data = able[0].data
    long = sum(data.features(id).steps > chunk for id in ids)
    if not long:
        return []
    return [f"of {long} test videos only the first {chunk} steps were measured"]


def _run_view(run: Run, found: Measured | None) -> RunView:
    missing = list(run.missing)
    if found is not None and found.similarity is None:
        missing.append("similarity: no test video has both picture and sound")
    return RunView(
        name=run.name,
        about=run.about,
        facts=_facts(run, found),
        recipe=(run.folder / "recipe.yaml").read_text(encoding="utf-8"),
        missing=tuple(missing),
        log=run.log,
        scores=run.scores,
        threshold=run.threshold if run.card is not None else None,
        similarity=None if found is None else found.similarity,
        windows=() if found is None else found.windows,
    )


def _facts(run: Run, found: Measured | None) -> tuple[tuple[str, str], ...]:
    """Rows of the card that people ask for first."""
    again = f"pipeline run --config {shlex.quote(str(run.folder / 'recipe.yaml'))}"
    rows = [("folder", str(run.folder)), ("choices", run.about), ("made again by", again)]
    if run.card is None:
        return tuple(rows)
    card: dict[str, Any] = asdict(run.card)
    rows += [(name, str(card[name])) for name in CARD_FACTS if card[name]]
    rows += [
        ("backbone", str(run.card.backbone.get("name", ""))),
        ("classes", str(len(run.card.classes))),
        ("annotations", str(run.recipe.data.annotations)),
        ("features", str(run.recipe.data.features)),
    ]
    if found is not None:
        rows.append(("parameters", f"{found.parameters:,}"))
    if "epoch" in run.card.metrics:
        rows.append(("best epoch", f"{run.card.metrics['epoch']:.0f}"))
    return tuple(rows)


def _video_view(id: str, runs: Sequence[Run], found: Mapping[str, Measured]) -> VideoView:
    data = next(run.data for run in runs if run.can_predict)
    assert data is not None
    features = data.features(id)
    shown = [found[run.name].shown[id] if run.name in found else None for run in runs]
    whole = [None if entry is None else entry.matrix for entry in shown]
    # Runs may look at pieces of other lengths: what all have seen is compared.
    steps = min((len(matrix) for matrix in whole if matrix is not None), default=features.steps)
    matrices = tuple(None if matrix is None else matrix[:steps, :steps] for matrix in whole)
    first, last = data.grid.to_seconds(np.array([-0.5, steps - 0.5]))
    return VideoView(
        id=id,
        duration=features.summary.duration,
        truth=sort_events(data.videos[id].events),
        found=tuple(None if entry is None else entry.events for entry in shown),
        matrices=matrices,
        matrix_span=(float(first), float(last)),
    )
