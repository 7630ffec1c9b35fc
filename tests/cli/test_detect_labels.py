"""`pipeline detect --labels` from a film to its events, on tiny random CLIP and CLAP models.

Random models know nothing, so nothing is claimed of what is found: only that the way through is the
right one, and that what comes out is well formed.
"""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest

from extractors.registry import load_backbone
from extractors.stream import extract_features
from extractors.text import load_text_encoder
from pipeline.cli import main
from tests.fixtures.hf import WORDS, make_model
from workflows.detection.open_encoders import load_open_vocabulary
from workflows.detection.open_vocabulary import OpenVocabularySettings
from workflows.detection.prompts import (
    BACKGROUND_PICTURES,
    BACKGROUND_SOUNDS,
    PICTURE_SENTENCES,
    SOUND_SENTENCES,
)
from workflows.unav100 import class_names

NAMES = [word for word in WORDS if word.isalpha() and len(word) > 3]
MANY = [" ".join(words) for n in (1, 2, 3) for words in itertools.product(NAMES, repeat=n)]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for name in ("clip", "siglip", "vit", "clap-fused"):
        make_model(name, folder / name)
    return folder


@pytest.mark.parametrize(("grid", "picture"), [("", "clip"), ("", "siglip"), ("unav-", "clip")])
def test_labels_go_from_a_film_to_valid_json(
    clip: Path, models: Path, grid: str, picture: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["detect", str(clip), "--labels", ",".join(MANY), "--device", "cpu"]
    command += ["--backbone", f"{grid}hf:{models / picture}+{models / 'clap-fused'}"]
    command += ["--format", "json", "--out", "-", "--min-score", "0.05"]
    assert main(command) == 0
    [video] = json.loads(capsys.readouterr().out)["videos"]
    assert video["duration"] == pytest.approx(2, abs=0.1)
    assert video["detector"].startswith(f"open vocabulary ({grid}hf:")
    for event in video["events"]:
        assert event["label"] in MANY
        assert 0 <= event["start"] < event["end"] <= video["duration"]
        assert 0.05 <= event["score"] <= 1


def test_a_page_and_a_table_are_written_for_labels_too(
    clip: Path, models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["detect", str(clip), "--labels", '"dog, barking", rain', "--device", "cpu"]
    command += ["--backbone", f"hf:{models / 'clip'}+{models / 'clap-fused'}"]
    assert main(command) == 0
    assert "open vocabulary" in capsys.readouterr().out
    assert main([*command, "--format", "html,json", "--out", str(tmp_path)]) == 0
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".html", ".json"]


def test_what_a_film_gives_is_what_its_stored_features_give(clip: Path, models: Path) -> None:
    name = f"hf:{models / 'clip'}+{models / 'clap-fused'}"
    detector = load_open_vocabulary(MANY[:100], backbone=name, device="cpu", min_score=0.0)
    features = extract_features(clip, load_backbone(name, device="cpu"))
    events, curves = detector.detect_features(features)
    found = detector(clip)
    assert sorted(events) == sorted(found.events)
    assert found.curves is not None and found.curves.labels == curves.labels
    np.testing.assert_allclose(found.curves.values, curves.values, atol=1e-3)


@pytest.mark.parametrize("modality", ["vision", "audio"])
def test_each_modality_is_compared_with_the_texts_of_its_own_encoder(
    clip: Path, models: Path, modality: str
) -> None:
    """The probability of a label, worked out once more from features and texts."""
    name = f"hf:{models / 'clip'}+{models / 'clap-fused'}"
    detector = load_open_vocabulary(["rain barking"], backbone=name, device="cpu")
    features = extract_features(clip, load_backbone(name, device="cpu"))
    found = detector.vocabulary.probabilities(features.arrays, modality)[:, 0]  # type: ignore[arg-type]
    encoder = load_text_encoder(name, which=modality, device="cpu")  # type: ignore[arg-type]
    pictures = modality == "vision"
    sentences = PICTURE_SENTENCES if pictures else SOUND_SENTENCES
    others = [other for other in class_names() if other != "raining"]
    others += BACKGROUND_PICTURES if pictures else BACKGROUND_SOUNDS
    logits = []
    for text in ("rain barking", *others):
        vector = encoder.encode([sentence.format(text) for sentence in sentences]).mean(axis=0)
        vector /= np.linalg.norm(vector)
        rows = features[modality] / np.linalg.norm(features[modality], axis=1, keepdims=True)
        logits.append(encoder.logit_scale * rows @ vector)
    against = np.log(np.mean(np.exp(logits[1:]), axis=0))
    prior = OpenVocabularySettings().prior
    odds = math.log(prior / (1 - prior)) + logits[0] - against
    np.testing.assert_allclose(found, 1 / (1 + np.exp(-odds)), atol=1e-4)


def test_without_the_encoders_the_command_ends_with_one_sentence_and_a_way_out(
    clip: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert main(["detect", str(clip), "--labels", "dog barking, glass", "--offline"]) == 3
    said = capsys.readouterr().err
    assert "Traceback" not in said and said.count("\n") == 1
    assert "is not on this machine" in said and "knows 'dog barking'" in said


def test_an_encoder_that_was_not_trained_with_texts_is_refused(
    clip: Path, models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    backbone = f"hf:{models / 'vit'}+{models / 'clap-fused'}"
    assert main(["detect", str(clip), "--labels", "dog", "--backbone", backbone]) == 2
    said = capsys.readouterr().err
    assert "no text tower" in said and "clip" in said


@pytest.mark.parametrize("labels", ["", " , ", "dog,,cat"])
def test_labels_that_name_nothing_are_a_usage_error(
    clip: Path, labels: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["detect", str(clip), "--labels", labels]) == 2
    assert "name" in capsys.readouterr().err
