"""The rules of the house, read from the imports of the source files."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ("pipeline", "extractors", "model", "workflows")
SOURCES = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path, *, top_level_only: bool = False) -> set[str]:
    """Modules that a file imports, wherever the statement stands; TYPE_CHECKING blocks included."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = tree.body if top_level_only else list(ast.walk(tree))
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add(str(node.module))
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def importers_of(package: str) -> set[str]:
    return {
        module_name(path)
        for path in SOURCES
        if any(name == package or name.startswith(package + ".") for name in imports(path))
    }


def room_of(name: str) -> str:
    if name == "pipeline.core" or name.startswith("pipeline.core."):
        return "pipeline.core"
    return name.split(".")[0]


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Groups of more than one module that all reach each other."""
    reach: dict[str, set[str]] = {}
    for start in graph:
        seen, waiting = set(), [start]
        while waiting:
            fresh = graph[waiting.pop()] - seen
            seen |= fresh
            waiting += fresh
        reach[start] = seen
    groups = {
        tuple(sorted(n for n in reach[name] if name in reach[n])) for name in graph
    }  # a module in no circle does not reach itself
    return [list(group) for group in sorted(groups) if len(group) > 1]


HEAVY = ("torch", "dask", "distributed", "transformers", "av", "decord", "onnx")
FORBIDDEN = {
    "pipeline.core": {"pipeline", "extractors", "model", "workflows"},
    "extractors": {"model", "workflows", "pipeline"},
    "model": {"extractors", "workflows", "pipeline"},
}


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_a_file_only_enters_rooms_that_it_may_enter(path: Path) -> None:
    forbidden = FORBIDDEN.get(room_of(module_name(path)), set())
    entered = {room_of(name) for name in imports(path)}
    assert not entered & forbidden


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_nobody_imports_the_command_line(path: Path) -> None:
    allowed = {"pipeline.__main__", "pipeline.cli"}
    if module_name(path) not in allowed:
        assert not any(name.startswith("pipeline.cli") for name in imports(path))


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_no_file_is_longer_than_500_lines(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 500


def test_no_modules_import_each_other_in_a_circle() -> None:
    """Late imports and those for type checkers count: they only hide that a wall stands wrong."""
    names = {module_name(path) for path in SOURCES}
    graph = {module_name(path): imports(path) & names - {module_name(path)} for path in SOURCES}
    for name in names:  # a package is meant only where nothing inside it is named
        graph[name] -= {p for p in graph[name] if any(n.startswith(f"{p}.") for n in graph[name])}
    assert circles(graph) == []
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == [["b", "c"]]


def test_core_knows_only_the_standard_library_and_numpy() -> None:
    allowed = set(sys.stdlib_module_names) | {"numpy", "pipeline"}
    for path in (ROOT / "pipeline" / "core").glob("*.py"):
        assert {name.split(".")[0] for name in imports(path)} <= allowed, path


def test_dask_is_imported_in_one_module_only() -> None:
    assert importers_of("dask") | importers_of("distributed") == {"workflows.schedule"}


def test_decord_is_imported_in_one_module_only() -> None:
    assert len(importers_of("decord")) == 1


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_writes_go_through_the_atomic_door(path: Path) -> None:
    if module_name(path).startswith("pipeline.core"):
        pytest.skip("the door itself")
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"""\bopen\([^)]*["'][wax]b?\+?["']""", text)
    assert not re.search(r"\.write_text\(|\.write_bytes\(", text.replace("atomic.write_", ""))


@pytest.mark.parametrize("statement", ["import pipeline", "import pipeline.cli"])
def test_importing_the_face_loads_nothing_heavy(statement: str) -> None:
    code = f"{statement}\nimport sys\nprint(*[name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.strip() == ""


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys, contextlib\nfrom pipeline.cli import main\n"
        "with contextlib.suppress(SystemExit):\n    main(['--help'])\n"
        f"print('heavy:', *[name for name in {HEAVY} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.rstrip().endswith("heavy:")
    assert "extract" in done.stdout


def test_ci_runs_exactly_the_command_that_the_readme_gives() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    command = script.strip().splitlines()[-1]
    assert command in readme
    assert command in (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
