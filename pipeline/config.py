"""Read a recipe: YAML in, frozen dataclasses out, everything that is wrong reported at once.

Only plain YAML is read, never tags that make objects. Paths in a recipe are relative to the
recipe; paths in an override are relative to the current folder, like any path one types.
"""

from __future__ import annotations

import difflib
import os
import reprlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import yaml

from pipeline.core.errors import ConfigError
from pipeline.recipe import Recipe

T = TypeVar("T")
Place = tuple[str, ...]
MOST_VALUES = 100_000  # in a file: a recipe with every value written out has two hundred

__all__ = [
    "Recipe",
    "YamlReader",
    "dump_recipe",
    "find_problems",
    "load_recipe",
    "report_problems",
]


def load_recipe(path: str | os.PathLike[str], *, overrides: Sequence[str] = ()) -> Recipe:
    """Read and check a recipe.

    Args:
        path: The YAML file.
        overrides: ``section.key=value``, the value in YAML; they win over the file.

    Raises:
        ConfigError: The file cannot be read, or any number of keys and values are wrong; all of
            them are in the message, with line numbers.
    """
    path = Path(path)
    recipe, problems = _read(path, overrides)
    if problems:
        raise ConfigError(report_problems(str(path), problems))
    object.__setattr__(recipe, "source", path.absolute())
    object.__setattr__(recipe, "overrides", tuple(overrides))
    return recipe


def find_problems(path: str | os.PathLike[str], *, overrides: Sequence[str] = ()) -> list[str]:
    """All that `load_recipe` would complain about, one sentence each.

    Raises:
        ConfigError: The file cannot be read.
    """
    return _read(Path(path), overrides)[1]


def _read(path: Path, overrides: Sequence[str]) -> tuple[Recipe, list[str]]:
    """A recipe, to be used only where nothing is wrong with it, and what is wrong."""
    reader = YamlReader(path)
    value = reader.read()
    for override in overrides:
        reader.override(value, override)
    recipe: Recipe = reader.build(Recipe, value, place=())
    if not reader.problems:
        reader.problems += cross_checks(recipe)
    return recipe, reader.problems


def dump_recipe(recipe: Recipe) -> str:
    """The recipe as YAML, every value written out; `load_recipe` reads it back."""
    text = yaml.safe_dump(recipe.to_json(), sort_keys=False, allow_unicode=True)
    return f"# Resolved from {recipe.source or 'Python'}; every value is written out.\n{text}"


def cross_checks(recipe: Recipe) -> list[str]:
    """Values that are fine one by one but not together."""
    model, optim, infer = recipe.model, recipe.optim, recipe.infer
    found = []
    for name in ("channels", "decoder_channels"):
        width = getattr(model, name)
        if width % model.heads:
            found.append(f"model.{name}={width} is not a multiple of model.heads={model.heads}")
    if model.channels % 2:
        found.append(f"model.channels={model.channels} is odd; positions need an even width")
    if optim.warmup_epochs >= optim.epochs:
        found.append(
            f"optim.warmup_epochs={optim.warmup_epochs} leaves nothing of "
            f"optim.epochs={optim.epochs}"
        )
    found += _sigma_checks(recipe)
    if optim.min_lr > optim.lr:
        found.append(f"optim.min_lr={optim.min_lr} is above optim.lr={optim.lr}")
    if infer.overlap >= infer.chunk:
        found.append(f"infer.overlap={infer.overlap} is not below infer.chunk={infer.chunk}")
    if recipe.model.method == "clasp" and recipe.data.modalities != "both":
        found.append(
            f"data.modalities={recipe.data.modalities} leaves model.method=clasp nothing to learn "
            "from: it takes the steps at which picture and sound are both there"
        )
    return found + _semi_weak_checks(recipe)


def _sigma_checks(recipe: Recipe) -> list[str]:
    """A deviation of LCC that its limits would change before the first step."""
    loss, longest = recipe.loss, recipe.model.max_seq_len
    if recipe.model.method != "loco" or loss.correspondence not in ("learnable", "fixed"):
        return []
    unit = longest if loss.sigma_unit == "video" else 1
    low, high = loss.least_sigma / unit, longest / 8 / unit
    if low <= loss.sigma <= high:
        return []
    return [
        f"loss.sigma={loss.sigma:g} is not from {low:.4g} to {high:.4g}, which "
        f"loss.least_sigma={loss.least_sigma:g}, loss.sigma_unit={loss.sigma_unit} and an eighth "
        f"of model.max_seq_len={longest} allow"
    ]


def _semi_weak_checks(recipe: Recipe) -> list[str]:
    """What does not fit to training on few segments."""
    wanted, found = recipe.semi_weak, []
    if wanted.strong_fraction == 1 and wanted.strong == "random":
        return []
    share = f"semi_weak.strong_fraction={wanted.strong_fraction:g}"
    if wanted.strong_fraction == 1:
        share = f"semi_weak.strong={wanted.strong}"
    if not wanted.weak_videos and wanted.strong_fraction == 0:
        found.append(f"{share} and semi_weak.weak_videos=false leave nothing to learn from")
    if wanted.weak_videos and not wanted.teacher:
        found.append(f"{share} needs semi_weak.teacher, the recipe or checkpoint of a weak model")
    if wanted.weak_videos and recipe.data.modalities != "both":
        found.append(
            f"data.modalities={recipe.data.modalities} leaves the weak model of "
            "semi_weak.teacher nothing to learn from: it needs both"
        )
    if recipe.model.method != "loco":
        found.append(f"{share} is of no use to model.method={recipe.model.method}: use loco")
    if recipe.data.validation:
        found.append(
            f"{share} leaves no segments of data.validation={recipe.data.validation} to choose "
            "an epoch by: leave it empty"
        )
    return found


class YamlReader:
    """Turns one file into a mapping, then into dataclasses, and collects what is wrong.

    Fields of the dataclasses carry their limits as `pipeline.recipe` has them.

    Args:
        path: The file.

    Attributes:
        problems: What is wrong so far, one sentence each with its line.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.folder = path.absolute().parent
        self.problems: list[str] = []
        self._lines: dict[Place, int] = {}
        self._overridden: set[Place] = set()

    def read(self) -> dict[str, Any]:
        """The raw mapping.

        Raises:
            ConfigError: The file cannot be read or holds no mapping.
        """
        try:
            loader = yaml.SafeLoader(self.path.read_text(encoding="utf-8"))
            node = loader.get_single_node()
            _refuse_bomb(node)
            value = None if node is None else loader.construct_document(node)
        except FileNotFoundError as error:
            raise ConfigError(
                f"the recipe {self.path} does not exist",
                hint="copy workflows/recipes/custom.yaml and fill it in",
            ) from error
        except OSError as error:
            raise ConfigError(f"{self.path} cannot be read: {error.strerror}") from error
        except (yaml.YAMLError, UnicodeDecodeError, ValueError) as error:
            raise ConfigError(f"{self.path} is no valid YAML: {_first_line(error)}") from error
        except RecursionError as error:
            raise ConfigError(f"{self.path} is no valid YAML: too many brackets nested") from error
        if not isinstance(value, dict):
            raise ConfigError(f"{self.path} holds no sections", hint="a recipe starts with data:")
        self._note_lines(node, ())
        return value

    def _note_lines(self, node: yaml.Node | None, place: Place) -> None:
        if not isinstance(node, yaml.MappingNode):
            return
        for key, child in node.value:
            inner = (*place, str(key.value))
            if inner in self._lines:
                self._complain(inner, f"is given twice, first on line {self._lines[inner]}")
            self._lines[inner] = key.start_mark.line + 1
            self._note_lines(child, inner)

    def override(self, value: dict[str, Any], text: str) -> None:
        """Put ``section.key=value``, or ``section={key: value}``, into the raw mapping."""
        name, equals, raw = text.partition("=")
        place = tuple(name.strip().split("."))
        if not equals or not all(place):
            self.problems.append(f"--set {text}: is not of the form section.key=value")
            return
        try:
            parsed = yaml.safe_load(raw) if raw.strip() else ""
        except yaml.YAMLError as error:
            self.problems.append(f"--set {text}: no valid value: {_first_line(error)}")
            return
        self._put(value, place, parsed)

    def _put(self, value: dict[str, Any], place: Place, parsed: Any) -> None:
        """A value in its place; of a whole section only the keys that are named change."""
        if isinstance(parsed, Mapping):
            for key, item in parsed.items():
                self._put(value, (*place, str(key)), item)
            return
        inner = value
        for key in place[:-1]:
            deeper = inner.get(key)
            if not isinstance(deeper, dict):
                deeper = inner[key] = {}
            inner = deeper
        inner[place[-1]] = parsed
        self._overridden.add(place)

    def build(self, kind: type[T], value: Any, *, place: Place) -> T | Any:
        """A dataclass from a mapping; problems are collected and a stand-in is returned."""
        if value is None:
            value = {}
        if not isinstance(value, Mapping):
            self._complain(place, f"holds {shown(value)}, not keys with values")
            value = {}
        known = {
            item.name: item
            for item in fields(kind)  # type: ignore[arg-type]
            if "internal" not in item.metadata
        }
        for key in value:
            if key not in known:
                self._complain((*place, str(key)), "unknown key" + _suggest(str(key), known))
        hints = get_type_hints(kind)
        arguments: dict[str, Any] = {}
        for name, item in known.items():
            inner = (*place, name)
            if is_dataclass(hints[name]):
                arguments[name] = self.build(hints[name], value.get(name), place=inner)
            elif name in value:
                arguments[name] = self._value(hints[name], item, value[name], inner)
            elif item.default is MISSING:
                self._complain(inner, "is required")
                arguments[name] = None
        return kind(**arguments)

    def _value(self, hint: Any, item: Field[Any], value: Any, place: Place) -> Any:
        try:
            converted = self._convert(hint, value, place)
        except TypeError as error:
            self._complain(place, f"{shown(value)} is not {error}")
            return None
        options = item.metadata.get("options")
        if options and converted not in options:
            guess = _suggest(str(converted), options)
            self._complain(place, f"{shown(converted)} is not one of {', '.join(options)}{guess}")
        limit = item.metadata.get("limit")
        if limit and not limit.holds(converted):
            self._complain(place, f"{shown(value)} must be {limit.text}")
        return converted

    def _convert(self, hint: Any, value: Any, place: Place) -> Any:
        """A value of the type of its field; TypeError says what was expected."""
        if get_origin(hint) is tuple:
            entries = value if isinstance(value, list) else [value]
            return tuple(self._convert(get_args(hint)[0], entry, place) for entry in entries)
        if hint is Path:
            if not isinstance(value, str) or not value:
                raise TypeError("a path")
            return self._path(value, place)
        if hint is float:
            return _number(value)
        names = {
            bool: "true or false",
            int: "a whole number",
            str: "text",
            dict: "keys with values",
        }
        if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
            raise TypeError(names[hint])
        return value

    def _path(self, text: str, place: Place) -> Path:
        """An absolute path; a list of inputs (``@list.txt``) keeps its sign."""
        sign = "@" if text.startswith("@") else ""
        base = Path.cwd() if place in self._overridden else self.folder
        joined = os.path.normpath(base / Path(text[len(sign) :]).expanduser())
        return Path(sign + joined)

    def _complain(self, place: Place, what: str) -> None:
        name = ".".join(place)
        if any(place[: len(given)] == given for given in self._overridden):
            self.problems.append(f"--set {name}: {what}")
        elif place in self._lines:
            self.problems.append(f"line {self._lines[place]}: {name}: {what}")
        else:
            self.problems.append(f"{name}: {what}")


def _refuse_bomb(root: yaml.Node | None) -> None:
    """Refuse lines of aliases of aliases, or of what they stand in: they stand for too many values.

    Raises:
        ValueError: There are more than `MOST_VALUES`, each counted as often as it is named.
    """
    waiting, count = [root], 0
    while waiting:
        node = waiting.pop()
        count += 1
        if count > MOST_VALUES:
            raise ValueError(f"it stands for more than {MOST_VALUES:,} values")
        if isinstance(node, yaml.SequenceNode):
            waiting += node.value
        elif isinstance(node, yaml.MappingNode):
            waiting += [part for pair in node.value for part in pair]


def _number(value: Any) -> float:
    """A finite float. YAML 1.1 reads 1e-4 (without a dot) as text; we do not."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            raise TypeError("a number") from None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError("a number")
    if not abs(value) <= sys.float_info.max:
        raise TypeError("a finite number")
    return float(value)


def _suggest(name: str, known: Mapping[str, Any] | Sequence[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else f"; known are {', '.join(known)}"


def report_problems(name: str, problems: Sequence[str]) -> str:
    """One message for all that is wrong with a file."""
    if len(problems) == 1:
        return f"{name}: {problems[0]}"
    return "\n  ".join([f"{name} has {len(problems)} problems:", *problems])


def _first_line(error: Exception) -> str:
    """A YAML error as one line; its own text spreads over several and quotes the file."""
    mark = getattr(error, "problem_mark", None)
    words = getattr(error, "problem", None) or str(error).splitlines()[0]
    return f"line {mark.line + 1}: {words}" if mark is not None else words


def shown(value: Any) -> str:
    """A value as an error names it: its beginning, however deep or long it is.

    A few lines of YAML aliases can stand for more values than a memory holds.
    """
    brief = reprlib.Repr()
    brief.maxlevel, brief.maxlist, brief.maxdict, brief.maxstring = 2, 6, 6, 200
    try:
        return brief.repr(value)
    except ValueError:  # Python writes out no number of more than 4300 digits
        return "a number of thousands of digits"
