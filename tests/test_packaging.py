"""pdrt installs from a clean tree: as a wheel, editable, and from a source distribution.

Builds are isolated, as a user's are, so pip must be able to fetch setuptools, pybind11 and ninja.
What pdrt needs at run time is borrowed from this environment.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

ROOT = Path(__file__).parent.parent

TRY = """
import importlib.util
import pdrt
from pdrt import _C
from pdrt.chat_template import built_in_names
from pdrt.kernels.cpu import paged_attention
from pdrt.model.source import SHIPPED
assert "phi-2" in built_in_names(), "the chat templates were left out"
assert importlib.util.find_spec("kernels") is None, "a package named kernels was installed"
assert (SHIPPED / "microsoft--phi-2" / "config.json").is_file()
print(pdrt.__file__, _C.BUILD, sep="\\n")
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of all tracked files."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True)
    for name in listed.stdout.decode().split("\0")[:-1]:
        target = tmp_path / "tree" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, target, follow_symlinks=False)
    return tmp_path / "tree"


@pytest.fixture
def python(tmp_path: Path) -> Path:
    """The interpreter of a new environment that sees this one's packages, but not this pdrt."""
    venv.create(tmp_path / "venv", with_pip=True)
    interpreter = tmp_path / "venv" / "bin" / "python"
    packages = sysconfig.get_path("purelib", vars={"base": str(tmp_path / "venv")})
    (Path(packages) / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return interpreter


def path_without_nvcc() -> str:
    folders = os.environ["PATH"].split(os.pathsep)
    return os.pathsep.join(folder for folder in folders if not (Path(folder) / "nvcc").exists())


def install(python: Path, *what: str, path: str | None = None) -> str:
    """What the build said."""
    command = [python, "-m", "pip", "install", "-v", "--no-deps", "--force-reinstall", *what]
    env = {**os.environ, "PATH": path or os.environ["PATH"]}
    both = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    done = subprocess.run(command, **both, text=True, check=False, env=env)
    assert done.returncode == 0, done.stdout
    return done.stdout


def installed_at(python: Path) -> Path:
    """Where the installed pdrt lies, asked from a folder that holds no source."""
    done = subprocess.run([python, "-c", TRY], cwd="/", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    file, build = done.stdout.splitlines()
    assert build.startswith("cpu (portable")
    return Path(file).parent


def test_pip_install_without_nvcc_says_what_it_built(tree: Path, python: Path) -> None:
    said = install(python, str(tree), path=path_without_nvcc())
    assert "pdrt: building pdrt._C: ledger, page memory, CPU kernels" in said
    assert "no nvcc found" in said
    assert installed_at(python).is_relative_to(python.parent.parent)


def test_an_editable_installation_uses_the_tree(tree: Path, python: Path) -> None:
    install(python, "-e", str(tree))
    assert installed_at(python) == tree / "pdrt"


def test_a_source_distribution_builds_and_works(tree: Path, python: Path) -> None:
    subprocess.run([sys.executable, "setup.py", "-q", "sdist"], cwd=tree, check=True)
    (archive,) = (tree / "dist").glob("*.tar.gz")
    install(python, str(archive))
    assert installed_at(python).is_relative_to(python.parent.parent)
