"""The recipes and studies that come with the program: complete, sourced, and what they say."""

from __future__ import annotations

import inspect
import json
import re
from dataclasses import asdict
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from extractors.registry import backbone_spec
from model.attention import Block
from model.build import build_loco, build_network
from model.clasp import CLASP
from model.cost import PUBLIC
from model.loco import LoCo, Losses
from model.perception import DynamicPerception
from pipeline.cli import main
from pipeline.config import load_recipe
from pipeline.recipe import Recipe
from workflows.cost import Sizes, cost_of_recipes, recipes_of_study, shipped_recipe
from workflows.study.file import load_study
from workflows.training.build import architecture_of, decoding_settings, train_settings
from workflows.weak.semi import SIZES

FULL = ("unav100_onepeace", "unav100_i3d_vggish", "activitynet13_onepeace")
STUDIES = ("table2a", "table2b", "table2c", "table2d", "table3", "readings")
WEAK = ("clasp_unav100_onepeace", "clasp_activitynet13_onepeace")
# What a CLASP does not read: its sections of `pipeline.recipe` hold LoCo's values, too.
NOT_OF_CLASP = {
    "optim": {"window_lr"},
    "train": {"keep", "crop_margin"},
    "infer": {"per_level", "min_length", "sigma", "max_per_class"},
}
SOURCES = re.compile(r"\[(paper|UnAV|UniAV|CCNet|WTAL|open|ours)\]")
# Sections of hyper-parameters.
SOURCED = ("model", "loss", "clasp", "localise", "optim", "train", "infer", "eval")
NARROW = (
    "model.channels=8",
    "model.decoder_channels=8",
    "model.heads=2",
    "model.levels=3",
    "model.max_seq_len=32",
)
ONE_PEACE = Sizes(1536, 1536, 100)


def study_path(name: str) -> Path:
    return shipped_recipe(f"studies/{name}")


@cache
def variants(name: str, *overrides: str) -> dict[str, Recipe]:
    return recipes_of_study(study_path(name), overrides=overrides)


def architecture(recipe: Recipe) -> dict[str, Any]:
    return architecture_of(recipe, vision_dim=6, audio_dim=5, classes=3)


def network(recipe: Recipe) -> LoCo:
    torch.manual_seed(0)
    return build_loco(**architecture(recipe))


def narrow(name: str, variant: str) -> LoCo:
    return network(variants(name, *NARROW)[variant])


def differences(one: Recipe, two: Recipe) -> set[str]:
    left, right = one.to_json(), two.to_json()
    return {
        f"{section}.{key}"
        for section in left
        for key in left[section]
        if left[section][key] != right[section][key]
    }


# Recipes.


@pytest.mark.parametrize("name", FULL)
def test_a_full_recipe_writes_out_every_value_there_is(name: str) -> None:
    path = shipped_recipe(name)
    written = yaml.safe_load(path.read_text(encoding="utf-8"))
    known = load_recipe(path).to_json()
    for section in ("clasp", "localise", "semi_weak"):  # of another method, and of few segments
        del known[section]
    assert {section: set(values) for section, values in written.items()} == {
        section: set(values) for section, values in known.items()
    }


@pytest.mark.parametrize("name", WEAK)
def test_a_recipe_of_clasp_writes_out_every_value_that_clasp_reads(name: str) -> None:
    path = shipped_recipe(name)
    written = yaml.safe_load(path.read_text(encoding="utf-8"))
    known = load_recipe(path).to_json()
    read = {"method", *inspect.signature(CLASP).parameters}
    assert set(written["model"]) == set(known["model"]) & read
    for section in ("clasp", "localise", "optim", "train", "infer", "eval"):
        assert set(written[section]) == set(known[section]) - NOT_OF_CLASP.get(section, set())
    assert written["model"]["method"] == "clasp"


@pytest.mark.parametrize("name", WEAK)
def test_a_recipe_of_clasp_differs_from_locos_in_data_and_training_where_it_says_so(
    name: str,
) -> None:
    weak, full = (load_recipe(shipped_recipe(n)).to_json() for n in (name, name[len("clasp_") :]))
    same = ("annotations", "features", "train", "test", "missing", "modalities")
    assert all(weak["data"][key] == full["data"][key] for key in same)
    assert weak["backbone"]["name"] == full["backbone"]["name"]
    assert weak["eval"] == full["eval"]
    assert weak["infer"]["max_total"] == full["infer"]["max_total"]
    for key in ("channels", "heads", "max_seq_len"):
        assert weak["model"][key] == full["model"][key]


@pytest.mark.parametrize("name", [*FULL, *WEAK])
def test_every_hyper_parameter_names_its_source(name: str) -> None:
    section, unsourced = "", []
    lines = shipped_recipe(name).read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines):
        if line and not line.startswith((" ", "#")):
            section = line.split(":")[0]
        key = re.match(r"  (\w+):", line)
        above = lines[number - 1] if lines[number - 1].lstrip().startswith("#") else ""
        if key and section in SOURCED and not SOURCES.search(line + above):
            unsourced.append(f"{section}.{key[1]}")
    assert not unsourced


def test_the_two_sets_of_unav100_features_differ_in_what_depends_on_them_only() -> None:
    one, two = (load_recipe(shipped_recipe(name)) for name in FULL[:2])
    assert differences(one, two) == {
        "data.features",
        "backbone.name",
        "model.max_seq_len",
        "output.folder",
    }


@pytest.mark.parametrize(
    ("name", "fps", "window", "stride", "dims", "longest"),
    [
        ("unav100_onepeace", 16, 16, 4, (1536, 1536), 60.0),
        ("unav100_i3d_vggish", 25, 24, 8, (2048, 128), 60.0),
        ("activitynet13_onepeace", 16, 16, 8, (1536, 1536), 240.0),
    ],
)
def test_the_backbone_is_the_released_one_and_nearly_all_videos_fit(
    name: str, fps: int, window: int, stride: int, dims: tuple[int, int], longest: float
) -> None:
    recipe = load_recipe(shipped_recipe(name))
    spec = backbone_spec(recipe.backbone.name)
    assert (spec.grid.fps, spec.grid.window, spec.grid.stride) == (Fraction(fps), window, stride)
    assert (spec.vision.dim, spec.audio.dim) == dims
    assert spec.grid.steps(longest) <= recipe.model.max_seq_len


def test_activitynet_is_measured_at_its_ten_thresholds_on_its_validation_videos() -> None:
    recipe = load_recipe(shipped_recipe("activitynet13_onepeace"))
    assert recipe.eval.tiou == pytest.approx([0.5 + 0.05 * number for number in range(10)])
    assert (recipe.data.train, recipe.data.test) == ("training", "validation")
    assert recipe.data.validation == ""  # no epoch is chosen on the videos that are scored
    assert not network(recipe).class_aware


# Studies.


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_varies_the_unav100_recipe_over_three_seeds(name: str) -> None:
    study = load_study(study_path(name))
    assert study.base == shipped_recipe("unav100_onepeace")
    assert study.seeds == (0, 1, 2)
    assert "LoCo" in {variant.name for variant in study.variants}
    first = study_path(name).read_text(encoding="utf-8").splitlines()[0]
    assert first == f"# pipeline study --config studies/{name}.yaml --out runs/{name}"


@pytest.mark.parametrize("name", STUDIES)
def test_a_variant_changes_what_it_names_and_no_two_are_the_same(name: str) -> None:
    base = load_recipe(shipped_recipe("unav100_onepeace"))
    study = load_study(study_path(name))
    for variant in study.variants:
        changed = differences(base, variants(name)[variant.name])
        assert changed == {text.partition("=")[0] for text in variant.overrides}
    flat = [json.dumps(recipe.to_json(), sort_keys=True) for recipe in variants(name).values()]
    assert len(set(flat)) == len(flat)
    assert variants(name)["LoCo"] == base


ALL = [
    (name, variant.name) for name in STUDIES for variant in load_study(study_path(name)).variants
]


@pytest.mark.parametrize(("name", "variant"), ALL, ids=lambda value: value.replace(" ", "-"))
def test_each_variant_makes_a_training_step(name: str, variant: str) -> None:
    model = narrow(name, variant)
    mask = torch.ones(2, 32, dtype=torch.bool)
    features = torch.randn(2, 6, 32), torch.randn(2, 5, 32)
    events = [torch.tensor([[3.2, 9.7]]), torch.tensor([[10.1, 30.4], [2.0, 5.5]])]
    labels = [torch.tensor([1]), torch.tensor([0, 2])]

    def loss() -> Losses:
        return model.loss(model(*features, mask, mask), events, labels)

    first = loss()
    assert first.total.isfinite()
    assert first.positives
    first.total.backward()
    model.eval()  # no path is dropped, and the normaliser rests
    before = loss().total
    learned = {key: value for key, value in model.named_parameters() if value.requires_grad}
    assert not [key for key, value in learned.items() if value.grad is None]
    reached = {key.split(".")[0] for key, value in learned.items() if value.grad.any()}
    assert reached == {key.split(".")[0] for key in learned}  # every part of the network
    torch.optim.AdamW(model.parameters(), lr=1e-3).step()
    assert loss().total < before


@pytest.mark.parametrize(
    ("name", "base"),
    [
        ("simulated", "simulated"),
        ("simulated_windows", "simulated"),
        ("clasp_simulated", "clasp_simulated"),
        ("clasp_readings", "clasp_simulated"),
        ("semi_weak_simulated", "semi_weak_simulated"),
    ],
)
def test_a_simulated_study_uses_the_one_simulation(name: str, base: str) -> None:
    study, first = load_study(study_path(name)), load_study(study_path("simulated"))
    assert study.simulation == first.simulation and study.seeds == (0, 1, 2)
    assert study.baselines == ("whole-video",)
    assert study.base == shipped_recipe(base)
    assert variants(name)[study.variants[0].name].data.validation == ""


def test_segments_are_worth_what_the_simulated_benchmark_measures() -> None:
    full = variants("clasp_simulated")["LoCo with segments"]
    assert differences(full, variants("simulated")["LoCo"]) == {"output.folder"}


def test_segments_are_worth_what_the_demo_measures() -> None:
    study, full = load_study(study_path("clasp_demo")), variants("clasp_demo")["LoCo with segments"]
    assert study.simulation is None and study.base == shipped_recipe("clasp_demo")
    # The epoch is not chosen, here as in all its rows; nothing is extracted or detected.
    assert differences(full, load_recipe(shipped_recipe("demo"))) == {
        "data.validation", "detect.inputs", "detect.formats", "train.validate_every",
        "output.folder",
    }  # fmt: skip


def test_the_rows_of_the_demo_are_those_of_the_simulation() -> None:
    demo, *others = (
        load_study(study_path(name)) for name in ("clasp_demo", "clasp_simulated", "clasp_readings")
    )
    known = {row.name: row.overrides for study in others for row in study.variants}
    assert all(known[row.name] == row.overrides for row in demo.variants[:-1])


@pytest.mark.parametrize(
    ("student", "teacher"),
    [
        ("custom_semi_weak", "custom_clasp"),
        ("semi_weak_simulated", "clasp_simulated"),
        ("demo", "clasp_demo"),
        ("unav100_onepeace", "clasp_unav100_onepeace"),
        ("activitynet13_onepeace", "clasp_activitynet13_onepeace"),
    ],
)
def test_a_student_can_start_with_the_weights_of_its_teacher(student: str, teacher: str) -> None:
    one, other = (load_recipe(shipped_recipe(name)).model for name in (student, teacher))
    assert {name: getattr(one, name) for name in SIZES} == {
        name: getattr(other, name) for name in SIZES
    }


def test_few_segments_are_shown_as_often_alone_as_among_all() -> None:
    rows = variants("semi_weak_simulated")
    few, alone = rows["10 %"], rows["10 %, strong videos only"]
    share = few.semi_weak.strong_fraction
    assert share == alone.semi_weak.strong_fraction and not alone.semi_weak.weak_videos
    assert alone.optim.epochs * share == few.optim.epochs
    assert alone.optim.warmup_epochs * share == few.optim.warmup_epochs
    assert len({row.semi_weak.strong_fraction for name, row in rows.items() if "10 %" in name}) == 1


CLASP_ROWS = [
    (study, row.name)
    for study in ("clasp_simulated", "clasp_readings")
    for row in load_study(study_path(study)).variants
    if row.name != "LoCo with segments"
]


@pytest.mark.parametrize(("study", "row"), CLASP_ROWS)
def test_each_variant_of_clasp_makes_a_training_step_from_labels_alone(
    study: str, row: str
) -> None:
    recipe = variants(study, "model.channels=8", "model.heads=2")[row]
    torch.manual_seed(0)
    model = build_network("clasp", **architecture(recipe))
    assert isinstance(model, CLASP)
    mask = torch.ones(2, 32, dtype=torch.bool)
    said = model(torch.randn(2, 6, 32), torch.randn(2, 5, 32), mask, mask)
    loss = model.loss(said, [torch.tensor([1]), torch.tensor([0, 2])]).total
    loss.backward()
    assert loss.isfinite()
    reached = {
        key.split(".")[0] for key, value in model.named_parameters() if value.grad is not None
    }
    silent = {
        "multiple instance": {"evidence"},
        "no propagation": {"fuse"},
        "a block instead": {"fuse"},
    }.get(row, set())
    parts = {key.split(".")[0] for key, _ in model.named_parameters()}
    weightless = {
        key.split(".")[0]
        for key, value in model.named_parameters()
        if value.grad is None or not value.grad.any()
    }
    assert parts - reached <= silent and silent <= weightless


def test_no_anchors_and_no_propagation_are_one_network() -> None:
    small = ("model.channels=8", "model.heads=2")
    recipe = variants("clasp_simulated", *small)["no propagation"]
    torch.manual_seed(0)
    one = build_network("clasp", **architecture(recipe)).eval()
    other = build_network("clasp", **{**architecture(recipe), "anchors": "none"}).eval()
    other.load_state_dict({k: v for k, v in one.state_dict().items() if k in other.state_dict()})
    mask = torch.ones(1, 32, dtype=torch.bool)
    inputs = torch.randn(1, 6, 32), torch.randn(1, 5, 32), mask, mask
    assert torch.equal(one(*inputs).activation, other(*inputs).activation)


def test_table2a_base_lets_no_stream_see_the_other_before_the_decoder() -> None:
    def streams(model: LoCo, audio: Tensor) -> list[Tensor]:
        mask = torch.ones(1, 1, 32, dtype=torch.bool)
        generator = torch.Generator().manual_seed(5)
        vision = torch.randn(1, 8, 32, generator=generator)
        with torch.no_grad():
            return [level[0] for level in model.eval().pyramid(vision, audio, mask, mask)]

    one, two = torch.randn(1, 8, 32), torch.randn(1, 8, 32)
    for variant, sees in (("base", False), ("base+LCC", False), ("base+CDP", True), ("LoCo", True)):
        model = narrow("table2a", variant)
        same = [
            torch.equal(a, b) for a, b in zip(streams(model, one), streams(model, two), strict=True)
        ]
        assert not any(same) if sees else all(same), variant


def test_table2a_and_table3_have_the_parts_that_their_rows_name() -> None:
    def parts(name: str, variant: str) -> tuple[str, bool]:
        recipe = variants(name)[variant]
        return recipe.model.fusion, recipe.loss.correspondence == "learnable"

    assert [parts("table2a", row) for row in variants("table2a")] == [
        ("none", False), ("none", True), ("dynamic", False), ("dynamic", True),
    ]  # fmt: skip
    assert [parts("table3", row) for row in variants("table3")] == [
        ("none", False), ("global", False), ("dynamic", False), ("global", True), ("dynamic", True),
    ]  # fmt: skip


def test_the_report_of_table3_names_folders_that_its_runs_have() -> None:
    path = study_path("table3")
    named = re.findall(r"runs/table3/runs/([\w-]+)/seed-0", path.read_text(encoding="utf-8"))
    assert named == ["loco", "base-cdp", "base-gb"]
    assert set(named) <= {variant.folder for variant in load_study(path).variants}


def test_table2b_rows_differ_in_the_targets_of_the_correspondence_alone() -> None:
    def targets(variant: str) -> Tensor:
        loss = narrow("table2b", variant).correspondence
        assert loss is not None
        return loss._targets(torch.ones(2, 6, dtype=torch.bool))[0]

    rows = variants("table2b")
    assert {recipe.model for recipe in rows.values()} == {rows["LoCo"].model}
    assert torch.equal(targets("diagonal")[0], torch.eye(6))
    smooth = targets("softened")
    torch.testing.assert_close(smooth.sum(2), torch.ones(2, 6))
    assert smooth[0, 0, 1] == smooth[0, 0, 5]
    torch.testing.assert_close(targets("fixed Gaussian"), targets("LoCo"))  # before any step
    near, far = targets("fixed Gaussian 0.5")[0, 0], targets("fixed Gaussian 4")[0, 0]
    assert near[1] / near[0] < far[1] / far[0]
    torch.testing.assert_close(targets("learnable, normalised").sum(2), torch.ones(2, 6))
    learned = {row: narrow("table2b", row).correspondence for row in ("fixed Gaussian", "LoCo")}
    assert {row: loss.log_sigma.requires_grad for row, loss in learned.items() if loss} == {
        "fixed Gaussian": False,
        "LoCo": True,
    }


@pytest.mark.parametrize(("name", "full"), [("table2c", "global"), ("table2d", "full")])
def test_full_attention_has_no_windows_and_nothing_that_adapts_them(name: str, full: str) -> None:
    model = narrow(name, full)
    assert not [key for key, _ in model.pyramid.named_parameters() if "adapt" in key]
    assert not any(isinstance(module, DynamicPerception) for module in model.modules())
    loco = narrow(name, "LoCo")
    assert any(isinstance(module, DynamicPerception) for module in loco.modules())


def test_table2d_full_is_the_global_row_of_table2c_and_windows_change_the_pyramid_alone() -> None:
    assert variants("table2d")["full"] == variants("table2c")["global"]
    sizes = {}
    for row in ("window 4", "LoCo", "window 16", "window 32"):
        model = network(variants("table2d")[row])
        mixers = [block.mixer for block in model.pyramid.modules() if isinstance(block, Block)]
        decoder = model.decoder.blocks[0].mixer
        sizes[row] = {mixer.window for mixer in mixers}, decoder.radius
    assert sizes == {
        "window 4": ({4}, 4),
        "LoCo": ({8}, 4),
        "window 16": ({16}, 4),
        "window 32": ({32}, 4),
    }


# What they cost.


def test_of_table3_all_but_global_attention_is_below_both_public_systems() -> None:
    report = cost_of_recipes(variants("table3"), ONE_PEACE, steps=256)
    assert report.is_comparable
    cost = {row.name: row.cost for row in report.rows}
    windowed = {name for name in cost if "GB" not in name}
    assert windowed == {"base", "base+CDP", "LoCo"}
    for system in PUBLIC:
        assert max(cost[name].flops for name in windowed) < system.flops
        assert max(entry.parameters for entry in cost.values()) < system.parameters
    lcc = 2 * (512 * 256 + 256) + 2
    adaptation = 12 * (512 * 8 + 8)
    assert cost["LoCo"].parameters - cost["base+CDP"].parameters == lcc
    assert cost["base+GB+LCC"].parameters - cost["base+GB"].parameters == lcc
    assert cost["base+CDP"].parameters - cost["base"].parameters == adaptation
    assert cost["base+GB"].parameters == cost["base"].parameters
    assert cost["base"].flops < cost["base+CDP"].flops < cost["base+GB"].flops
    assert cost["LoCo"].flops == cost["base+CDP"].flops


def test_the_command_prints_the_papers_network_part_by_part(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["model"]) == 0
    said = capsys.readouterr().out
    for part in ("embedding", "unimodal blocks", "pyramid", "decoder", "heads", "LCC", "total"):
        assert re.search(rf"^{part} ", said, re.MULTILINE), part
    assert "1536 + 1536 values a step, 100 classes" in said
    assert re.search(r"^UnAV +140\.90 M +128\.60$", said, re.MULTILINE)
    assert re.search(r"^UniAV +130\.75 M +22\.80$", said, re.MULTILINE)
    assert "do not compare" not in said
    assert "not counted: norms" in said


def test_the_command_shows_a_study_row_by_row(capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ["--vision-dim", "64", "--audio-dim", "48"]
    words = ["model", "--study", str(study_path("table3")), "--json", "--steps", "128", *sizes]
    assert main([*words, "--set", "model.channels=64"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert list(said["networks"]) == list(variants("table3"))
    assert {row["architecture"]["channels"] for row in said["networks"].values()} == {64}
    assert (said["steps"], said["comparable"]) == (128, False)


def test_sizes_come_from_backbone_and_labels_unless_they_are_given(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    events = [{"segment": [0, 1], "label": name} for name in ("a", "b", "c")]
    video = {"duration": 9.0, "subset": "train", "annotations": events}
    (tmp_path / "labels.json").write_text(json.dumps({"database": {"v": video}}))
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "data: {annotations: labels.json, features: f}\noutput: {folder: r}\n"
        "model: {channels: 16, decoder_channels: 16}\n"
    )
    words = ["model", "--config", str(recipe)]
    assert main(words) == 0
    assert "1280 + 1024 values a step, 3 classes" in capsys.readouterr().out
    assert main([*words, "--vision-dim", "7", "--audio-dim", "9", "--classes", "2"]) == 0
    said = capsys.readouterr().out
    assert "7 + 9 values a step, 2 classes" in said
    assert "do not compare" in said


def test_a_backbone_that_is_not_known_asks_for_the_widths(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "data: {annotations: l.json, features: f}\noutput: {folder: r}\nbackbone: {name: mine}\n"
    )
    assert main(["model", "--config", str(recipe), "--audio-dim", "9"]) == 2
    said = capsys.readouterr().err
    assert "unknown backbone 'mine' (give --vision-dim and --audio-dim)" in said


def test_a_recipe_of_another_method_is_not_counted_as_loco(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("data: {annotations: l.json, features: f}\noutput: {folder: r}\n")
    assert main(["model", "--config", str(recipe), "--set", "model.method=clasp"]) == 2
    assert "is of the method 'clasp', whose parts are not counted" in capsys.readouterr().err


@pytest.mark.parametrize("name", FULL)
def test_every_value_of_a_recipe_reaches_the_code_that_uses_it(name: str) -> None:
    recipe = load_recipe(shipped_recipe(name))
    optim, shown = asdict(recipe.optim), asdict(recipe.train)
    for key in ("cache_gb", "tensorboard"):  # taken by the stage itself
        shown.pop(key)
    settings = asdict(train_settings(recipe))
    assert {key: settings.get(key) for key in optim | shown} == optim | shown
    assert asdict(decoding_settings(recipe)) == asdict(recipe.infer)
    built = architecture(recipe)
    network_values = asdict(recipe.model) | asdict(recipe.loss)
    assert network_values.pop("method") == "loco"
    assert {key: built.get(key) for key in network_values} == network_values
