"""Read a Dockerfile, and carry out its steps in a folder with chroot where there is no Docker.

    python docker/steps.py docker/cpu.Dockerfile                                lists the steps
    python docker/steps.py docker/cpu.Dockerfile --build ROOT --context DIR     carries them out
    python docker/steps.py docker/cpu.Dockerfile --enter ROOT -- WORD ...       runs the entry point

ROOT is a folder with the system of the base image, as docker/check.sh makes it; --build and --enter
must be run as root. Only what our Dockerfiles use is understood; anything else is refused.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

KNOWN = ("FROM", "ARG", "ENV", "WORKDIR", "COPY", "RUN", "USER", "ENTRYPOINT", "CMD")
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# How this machine reaches package registries is its own affair: handed on, written nowhere.
HANDED_ON = re.compile(
    "(PIP_|SSL_CERT_|REQUESTS_CA_BUNDLE|CURL_CA_BUNDLE|(https?|no)_proxy$)", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class Step:
    """One instruction of a Dockerfile.

    Attributes:
        name: In capitals.
        value: Everything behind it, continued lines joined.
        line: Number of its first line.
    """

    name: str
    value: str
    line: int

    @property
    def words(self) -> list[str]:
        """The value as a list: exec form (JSON) or as a shell would split it."""
        if self.value.startswith("["):
            return [str(word) for word in json.loads(self.value)]
        return shlex.split(self.value)


def read_dockerfile(path: Path) -> list[Step]:
    """The steps of a Dockerfile.

    Raises:
        ValueError: An instruction that is not understood here.
    """
    return list(_steps(path.read_text("utf-8")))


def _steps(text: str) -> Iterator[Step]:
    first, gathered = 0, ""
    for number, line in enumerate(text.splitlines(), start=1):
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        first = first or number
        if stripped.endswith("\\"):
            gathered += stripped[:-1] + " "
            continue
        name, _, value = (gathered + stripped).partition(" ")
        if name.upper() not in KNOWN:
            raise ValueError(f"line {first}: {name} is not understood")
        yield Step(name.upper(), value.strip(), first)
        first, gathered = 0, ""


def exclusions(path: Path) -> list[str]:
    """What a .dockerignore leaves out, as options of tar for a context packed as ``.``.

    A name there is one at the top; to tar it would be one anywhere, such as a package of ours.

    Raises:
        ValueError: A line that is not understood here.
    """
    options = []
    for line in path.read_text("utf-8").splitlines() if path.exists() else ():
        name = line.strip().strip("/")
        if not name or name.startswith("#"):
            continue
        anywhere = name.startswith("**/")
        name = name.removeprefix("**/")
        if name.startswith("!") or "**" in name:
            raise ValueError(f"{path.name}: {line} is not understood")
        options.append("--no-anchored" if anywhere else "--anchored")
        options.append(f"--exclude={name}" if anywhere else f"--exclude=./{name}")
    return options


@dataclass(slots=True)
class Image:
    """A root folder in the making.

    Attributes:
        root: The folder.
        context: What COPY copies from.
        given: Values for ARG.
        variables: What ARG and ENV have set.
        workdir: Folder inside the root in which commands run.
        user: Who runs them.
        entrypoint: What a container starts.
        command: Its arguments when none are given.
    """

    root: Path
    context: Path
    given: Mapping[str, str] = field(default_factory=dict)
    variables: dict[str, str] = field(default_factory=dict)
    workdir: str = "/"
    user: str = "root"
    entrypoint: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)

    def take(self, step: Step, *, build: bool) -> None:
        """Do what a step says; without ``build`` only remember what it sets.

        Raises:
            subprocess.CalledProcessError: A command failed.
        """
        if step.name in ("ARG", "ENV"):
            name, _, value = step.value.partition("=")
            chosen = self.given.get(name) if step.name == "ARG" else None
            self.variables[name] = value.strip("\"'") if chosen is None else chosen
        elif step.name == "WORKDIR":
            self.workdir = step.value
            self._inside(self.workdir).mkdir(parents=True, exist_ok=True)
        elif step.name == "USER":
            self.user = step.value
        elif step.name in ("ENTRYPOINT", "CMD"):
            setattr(self, "entrypoint" if step.name == "ENTRYPOINT" else "command", step.words)
        elif step.name == "RUN" and build:
            self.run(["/bin/sh", "-c", step.value])
        elif step.name == "COPY" and build:
            self._copy(step.words)

    def run(self, words: Sequence[str]) -> None:
        """Run a command inside, as the user and in the folder that hold now.

        Raises:
            subprocess.CalledProcessError: It failed.
        """
        shell = ["/bin/sh", "-c", 'cd "$1" && shift && exec "$@"', "sh", self.workdir, *words]
        subprocess.run(
            ["chroot", f"--userspec={self.user}", str(self.root), *shell],  # noqa: S607
            env=self._environment(),
            check=True,
        )

    def _environment(self) -> dict[str, str]:
        handed_on = {name: value for name, value in os.environ.items() if HANDED_ON.match(name)}
        common = {"PATH": PATH, "HOME": self._home(), "LANG": "C.UTF-8"}
        return {**handed_on, **common, **self.variables}

    def _home(self) -> str:
        """Home of the user, who may be named by number."""
        name = self.user.partition(":")[0]
        for line in (self.root / "etc" / "passwd").read_text("utf-8").splitlines():
            fields = line.split(":")
            if name in (fields[0], fields[2]):
                return fields[5]
        return "/"

    def _copy(self, words: Sequence[str]) -> None:
        """Copy from the context what .dockerignore lets through."""
        *sources, target = words
        place = self._inside(target)
        place.mkdir(parents=True, exist_ok=True)
        pack = ["tar", "--create", f"--directory={self.context}", "--owner=0", "--group=0"]
        pack += exclusions(self.context / ".dockerignore")
        unpack = ["tar", "--extract", f"--directory={place}"]
        with subprocess.Popen([*pack, *sources], stdout=subprocess.PIPE) as packing:
            subprocess.run(unpack, stdin=packing.stdout, check=True)
        if packing.returncode:
            raise subprocess.CalledProcessError(packing.returncode, pack)

    def _inside(self, path: str) -> Path:
        inside = Path(self.workdir) / path
        return self.root / inside.relative_to("/")


def main(arguments: Sequence[str]) -> int:
    """List, build or enter; see above."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--build", type=Path, metavar="ROOT")
    parser.add_argument("--enter", type=Path, metavar="ROOT")
    parser.add_argument("--context", type=Path, default=Path())
    parser.add_argument("--build-arg", action="append", default=[], metavar="NAME=VALUE")
    own, words = list(arguments), []
    if "--" in own:
        place = own.index("--")
        own, words = own[:place], own[place + 1 :]
    args = parser.parse_args(own)
    steps = read_dockerfile(args.file)
    root = args.build or args.enter
    if root is None:
        sys.stdout.writelines(f"{step.line:>3} {step.name} {step.value}\n" for step in steps)
        return 0
    given = dict(text.split("=", 1) for text in args.build_arg)
    image = Image(root.resolve(), args.context.resolve(), given)
    for step in steps:
        if args.build:
            sys.stderr.write(f"=== {step.name} {step.value}\n")
        image.take(step, build=args.build is not None)
    if args.enter:
        image.run([*image.entrypoint, *(words or image.command)])
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except subprocess.CalledProcessError as error:
        sys.exit(f"{error.cmd[-1]!r} failed with exit code {error.returncode}")
