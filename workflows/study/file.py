"""What a study is: variants of one recipe, each trained with several seeds. See `load_study`.

::

    base: ../unav100_onepeace.yaml     # a recipe, relative to this file
    seeds: [0, 1, 2]
    variants:                          # name -> changes of the recipe, as for --set or in sections
      LoCo: {}
      without LCC: {loss.correspondence: none}
    baselines: [whole-video]           # optional
    simulation: {train: 480, ...}      # optional; see workflows.simulation.make
"""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.config import YamlReader, find_problems, report_problems
from pipeline.core.errors import ConfigError, UsageError
from pipeline.recipe_fields import Limit
from workflows.simulation.make import SimulationSettings

BASELINES = ("whole-video",)
OURS = ("output.folder", "train.seed")  # the runner decides these
SHARED = ("eval.tiou",)  # one average over other thresholds cannot be compared with the next
FILLED_IN = ("data.annotations", "data.features", "backbone.name")  # by a simulation


@dataclass(frozen=True, slots=True)
class Variant:
    """One row of the table.

    Attributes:
        name: In the table.
        folder: Of its runs.
        overrides: What it changes, as for ``--set``.
    """

    name: str
    folder: str
    overrides: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Study:
    """A checked study.

    Attributes:
        path: The file it was read from.
        base: The recipe that is varied.
        seeds: Of training; differences are paired by them.
        variants: In the order of the file; the others are compared with the first.
        baselines: Of `BASELINES`.
        simulation: How features are made; None where the recipe names a store.
        overrides: Changes that all variants share.
        only: Names of the variants and baselines to run; the others keep what they have. None of
            them runs all.
    """

    path: Path
    base: Path
    seeds: tuple[int, ...]
    variants: tuple[Variant, ...]
    baselines: tuple[str, ...] = ()
    simulation: SimulationSettings | None = None
    overrides: tuple[str, ...] = ()
    only: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _File:
    """The file as it is written; `YamlReader` checks it."""

    base: Path
    variants: dict = field(metadata={"limit": Limit("at least one variant", bool)})
    seeds: tuple[int, ...] = field(
        default=(0,),
        metadata={
            "limit": Limit(
                "different whole numbers from 0",
                lambda seeds: bool(seeds) and min(seeds) >= 0 and len(set(seeds)) == len(seeds),
            )
        },
    )
    baselines: tuple[str, ...] = field(
        default=(),
        metadata={
            "limit": Limit(
                f"names among {', '.join(BASELINES)}, each once",
                lambda names: set(names) <= set(BASELINES) and len(set(names)) == len(names),
            )
        },
    )


def load_study(
    path: str | os.PathLike[str],
    *,
    overrides: Sequence[str] = (),
    seeds: Sequence[int] | None = None,
    only: Sequence[str] = (),
) -> Study:
    """Read and check a study, the recipe of each of its variants included.

    Args:
        path: The YAML file.
        overrides: Changes for all variants, as for ``--set``; a variant's own win over them. A
            key that starts with ``simulation.`` changes that section.
        seeds: In place of the file's.
        only: Names of the variants and baselines to run; none runs all.

    Raises:
        ConfigError: Anything is wrong with the file or a recipe; all of it is in the message.
        UsageError: ``only`` names what is not there.
    """
    path = Path(path)
    reader = YamlReader(path)
    value = reader.read()
    for text in overrides:
        if text.startswith("simulation."):
            if "simulation" in value:
                reader.override(value, text)
            else:
                reader.problems.append(f"--set {text}: the study has no simulation")
    common = tuple(text for text in overrides if not text.startswith("simulation."))
    simulation = None
    if "simulation" in value:
        simulation = reader.build(
            SimulationSettings, value.pop("simulation"), place=("simulation",)
        )
    if seeds is not None:
        value["seeds"] = list(seeds)
    file: _File = reader.build(_File, value, place=())
    problems = list(reader.problems)
    variants = _variants(file.variants, problems) if isinstance(file.variants, Mapping) else ()
    if file.base is not None:
        problems += _recipe_problems(file.base, variants, common, simulated=simulation is not None)
    if problems:
        raise ConfigError(report_problems(str(path), problems))
    study = Study(
        path,
        file.base,
        file.seeds,
        variants,
        file.baselines,
        simulation,
        common,
        tuple(only),
    )
    _check_only(study)
    return study


def _variants(rows: Mapping[Any, Any], problems: list[str]) -> tuple[Variant, ...]:
    found: dict[str, Variant] = {}
    for name, changes in rows.items():
        name = str(name)
        folder = re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-.")
        if not folder:
            problems.append(f"variant {name!r}: the name has no letter or digit for a folder")
        elif folder in found:
            problems.append(
                f"variants {found[folder].name!r} and {name!r} would share the folder {folder}"
            )
        elif not isinstance(changes, Mapping | None):
            problems.append(f"variant {name!r}: holds {changes!r}, not keys with values")
        else:
            found[folder] = Variant(name, folder, tuple(_overrides(changes or {})))
    return tuple(found.values())


def _overrides(changes: Mapping[Any, Any], prefix: str = "") -> Iterator[str]:
    """Changes of single values, so that each is checked against what a study decides itself."""
    for key, new in changes.items():
        if isinstance(new, Mapping):
            yield from _overrides(new, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}={json.dumps(new)}"


def _recipe_problems(
    base: Path, variants: Sequence[Variant], common: Sequence[str], *, simulated: bool
) -> list[str]:
    """What is wrong with the recipes; what all share is said once."""
    reserved = (*OURS, *FILLED_IN) if simulated else OURS
    try:
        shared = find_problems(base, overrides=common)
        found = [f"base {base}: {problem}" for problem in shared]
        for variant in variants:
            for text in variant.overrides:
                if (key := text.partition("=")[0]) in reserved:
                    found.append(f"variant {variant.name!r}: {key} is set by the study")
                elif key in SHARED:
                    found.append(f"variant {variant.name!r}: {key} must be the same in all rows")
            own = find_problems(base, overrides=[*common, *variant.overrides])
            found += [
                f"variant {variant.name!r}: {problem.removeprefix('--set ')}"
                for problem in own
                if problem not in shared
            ]
    except ConfigError as error:
        return [f"base: {error}"]
    return found


def _check_only(study: Study) -> None:
    names = [*(variant.name for variant in study.variants), *study.baselines]
    for name in study.only:
        if name not in names:
            close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
            guess = f"did you mean {close[0]!r}? " if close else ""
            raise UsageError(
                f"{study.path} has no variant {name!r}",
                hint=f"{guess}variants: {', '.join(names)}",
            )
