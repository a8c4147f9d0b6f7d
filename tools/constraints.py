"""Write constraints.txt (the versions installed here, as plain pins for every platform) and
environment.yml.
"""

import re
import tomllib
from importlib.metadata import distributions, requires
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
OURS = "course-lib"
# brought by CUDA builds of torch, which pin them themselves; and tools of the moment
OTHERS = ("nvidia-", "cuda-", OURS, "pip", "py-spy", "jupytext")
HEAD = "# Exact versions of everything the course installs; made by `make constraints`.\n"
CONDA = """# The notebooks' environment for conda and (through binder/) Binder; by `make constraints`.
# Afterwards: pip install --no-deps -e .
name: course
channels: [conda-forge, nodefaults]
dependencies:
  - python=3.11
  - pip
  - pip:
"""


def canonical(name: str) -> str:
    """A package's name as the index spells
    it.
    """
    return re.sub(r"[-_.]+", "-", name).lower()


def installed() -> dict[str, str]:
    """Every package and its version, local build marks such as +cpu left out."""
    found = {canonical(d.metadata["Name"]): d.version.split("+")[0] for d in distributions()}
    return {name: version for name, version in sorted(found.items()) if not name.startswith(OTHERS)}


def needed(names: list[str], versions: dict[str, str]) -> list[str]:
    """The packages of some requirements and all that those need here."""
    found: set[str] = set()
    waiting = [canonical(Requirement(name).name) for name in names]
    while waiting:
        name = waiting.pop()
        if name in found or name not in versions:
            continue
        found.add(name)
        for line in requires(name) or []:
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                waiting.append(canonical(requirement.name))
    return sorted(found)


if __name__ == "__main__":
    versions = installed()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pins = "".join(f"{name}=={version}\n" for name, version in versions.items())
    (ROOT / "constraints.txt").write_text(HEAD + pins)
    names = needed([*project["dependencies"], *project["optional-dependencies"]["lab"]], versions)
    (ROOT / "environment.yml").write_text(CONDA + "".join(f"      - {n}=={versions[n]}\n" for n in names))
