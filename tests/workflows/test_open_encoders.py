"""Which encoders open vocabulary takes, what is said before they come, and the way out without."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import pipeline
from extractors.hf.files import ModelFolder
from extractors.hf.hub import HubModel
from extractors.hf.model import HfModel, parse_hf_name
from extractors.spec import WeightsFile
from pipeline.core.errors import EnvironmentFault, UsageError
from tests.workflows.test_open_vocabulary import BACKBONE, PlantedTexts
from workflows.detection import open_encoders
from workflows.detection import run as detect
from workflows.detection.open_encoders import (
    DEFAULT_BACKBONE,
    DEFAULTS,
    agreement_knows,
    load_open_vocabulary,
)
from workflows.detection.run import load_detector
from workflows.unav100 import class_names


class Notebook:
    """Writes down what is said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)

    def progress(self, what: str, done: int, total: int | None) -> None:
        raise AssertionError("nothing is fetched here")


def missing(name: str, weights_dir: object, *, size: int = 0) -> list[HfModel]:
    """Both encoders of a name, as the hub describes them; folders are here."""
    models: list[Any] = []
    for model in parse_hf_name(name).values():
        weights = WeightsFile("model.safetensors", size, "", "", "hub") if model.repo else None
        hub = HubModel(model.repo, model.revision) if model.repo else None
        folder = ModelFolder(
            Path("snapshot"), "hub", {}, hub, missing=(weights,) if weights else ()
        )
        models.append(SimpleNamespace(folder=folder))
    return models


@pytest.fixture
def no_models(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine without network that has never seen a model."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("PIPELINE_OFFLINE", "1")


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any pair of encoders is the planted one, and not on this machine before."""
    monkeypatch.setenv("PIPELINE_OFFLINE", "0")
    monkeypatch.setattr(open_encoders, "load_backbone", lambda name, **_: BACKBONE)
    monkeypatch.setattr(
        open_encoders, "load_text_encoder", lambda name, *, which, **_: PlantedTexts(which)
    )
    monkeypatch.setattr(open_encoders, "_described", missing)


# ---- what is loaded ---------------------------------------------------------------------------


def test_what_will_be_downloaded_is_said_with_size_and_licence(planted: None) -> None:
    said = Notebook()
    load_open_vocabulary(["dog barking"], watch=said)
    [line] = said.lines
    for encoder in DEFAULTS.values():
        assert encoder.name in line and encoder.licence in line
        assert f"about {encoder.about_bytes // 1_000_000} MB" in line


def test_of_encoders_that_are_not_the_defaults_nothing_is_made_up(planted: None) -> None:
    said = Notebook()
    load_open_vocabulary(["dog"], backbone="hf:some/clip+some/clap@main", watch=said)
    assert "some/clip (see its page), some/clap@main (see its page)" in said.lines[0]
    assert "MB" not in said.lines[0]


def test_the_size_is_said_where_the_hub_says_it(
    planted: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = Notebook()
    monkeypatch.setattr(open_encoders, "_described", partial(missing, size=12_345_678))
    load_open_vocabulary(["dog"], backbone="hf:some/clip+/models/clap", watch=said)
    assert said.lines[0].endswith(": some/clip (12 MB, licence: see its page)")


def test_nothing_is_said_of_encoders_that_are_here(
    planted: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = Notebook()
    load_open_vocabulary(["dog"], backbone="hf:/models/clip+/models/clap", watch=said)
    monkeypatch.setattr(open_encoders, "_described", lambda name, weights_dir: [])
    load_open_vocabulary(["dog"], watch=said)
    assert said.lines == []


def test_the_default_pair_is_a_backbone_of_the_table() -> None:
    models = parse_hf_name(DEFAULT_BACKBONE)
    assert [model.text for model in models.values()] == [row.name for row in DEFAULTS.values()]
    assert all(model.repo for model in models.values())


def test_the_smallest_score_and_the_labels_reach_the_detector(planted: None) -> None:
    detector = load_open_vocabulary([" Dog "], min_score=0.7)
    assert detector.labels == ("Dog",) and detector.settings.min_score == 0.7
    assert load_open_vocabulary().labels == class_names()


def test_bad_labels_are_refused_before_anything_is_looked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("looked for encoders")

    monkeypatch.setattr(open_encoders, "load_backbone", never)
    monkeypatch.setattr(open_encoders, "_described", never)
    with pytest.raises(UsageError, match="names nothing"):
        load_open_vocabulary(["dog barking", " "])


@pytest.mark.parametrize("backbone", ["lite", "hf:only/one", "onepeace"])
def test_a_backbone_that_is_no_pair_of_such_encoders_is_refused(backbone: str) -> None:
    with pytest.raises(UsageError, match="hf:<vision>"):
        load_open_vocabulary(["dog"], backbone=backbone)


# ---- which detector labels choose -------------------------------------------------------------


def test_labels_without_a_method_mean_open_vocabulary(planted: None) -> None:
    assert load_detector(labels=["glass breaking"]).name == "open vocabulary (planted)"
    pair = "hf:some/clip+some/clap"
    from_python = pipeline.load_detector(labels=["glass breaking"], backbone=pair)
    assert from_python.labels == ("glass breaking",)
    assert load_detector(method="open-vocabulary").labels == class_names()


def test_labels_with_method_agreement_filter_its_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def stop(name: str, **_: object) -> None:
        asked.append(name)
        raise RuntimeError("far enough")

    monkeypatch.setattr(detect, "load_backbone", stop)
    for options in ({"labels": ["dog barking"], "method": "agreement"}, {}):
        with pytest.raises(RuntimeError, match="far enough"):
            load_detector(**options)  # type: ignore[arg-type]
    assert asked == ["lite", "lite"]


def test_no_label_at_all_is_an_error(planted: None) -> None:
    with pytest.raises(UsageError, match="name at least one"):
        load_detector(labels=[])


# ---- without network --------------------------------------------------------------------------


def test_without_network_the_error_names_the_model_and_what_works_without(no_models: None) -> None:
    said = Notebook()
    with pytest.raises(EnvironmentFault) as caught:
        load_open_vocabulary(["dog barking", "chainsaw", "glass breaking"], watch=said)
    assert DEFAULTS["vision"].name in caught.value.message
    hint = str(caught.value.hint)
    assert "--weights-dir" in hint
    assert "--method agreement" in hint and "knows 'dog barking', 'chainsawing trees'" in hint
    assert "for 'chainsaw'" in hint and "glass" not in hint
    assert said.lines == []  # nothing is downloaded, so nothing is announced


def test_labels_that_agreement_does_not_know_are_not_sent_there(no_models: None) -> None:
    with pytest.raises(EnvironmentFault) as caught:
        load_open_vocabulary(["glass breaking"])
    assert "agreement" not in str(caught.value.hint)


def test_the_default_list_without_network_points_to_agreement(no_models: None) -> None:
    with pytest.raises(EnvironmentFault, match="--method agreement, which needs no download"):
        load_open_vocabulary()


def test_a_folder_that_is_not_there_is_named(no_models: None, tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFault, match="no folder"):
        load_open_vocabulary(["dog"], backbone=f"hf:{tmp_path}/clip+{tmp_path}/clap")


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("Dog Barking", "dog barking"),
        ("chainsaw", "chainsawing trees"),
        ("dog barkin", "dog barking"),
        ("a church bell", "church bell ringing"),
    ],
)
def test_agreement_is_known_to_know_a_like_class(label: str, name: str) -> None:
    assert agreement_knows([label]) == {label: name}


def test_agreement_is_not_said_to_know_what_it_does_not() -> None:
    assert agreement_knows(["glass breaking", "applause", "man speaking"]) == {}
