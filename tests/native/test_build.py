"""`pip install .` with and without a compiler, and what lies in a wheel and in a source distribution."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.architecture.rules import ROOT
from tests.native.toolchain import need

pytest.importorskip("scikit_build_core", reason="`make venv` installs what builds the package")
SHIPPED = ("src", "cpp", "cmake", "CMakeLists.txt", "pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md")


def sources(tree: Path) -> set[str]:
    """Every file of the package that a wheel must hold: all but the stale extension."""
    files = (path for path in (tree / "src" / "sparseland").rglob("*") if path.is_file() and path.suffix != ".so")
    return {path.relative_to(tree / "src").as_posix() for path in files}


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what a source distribution is made of, with a stale extension in it."""
    place = tmp_path_factory.mktemp("tree")
    for name in (*SHIPPED, "CITATION.cff", "CONTRIBUTING.md", "Makefile", "constraints.txt", ".gitignore"):
        path = ROOT / name
        leave = shutil.ignore_patterns("__pycache__", "*.py[cod]", "*.so", "*.tmp")
        if path.is_dir():
            shutil.copytree(path, place / name, ignore=leave)
        else:
            shutil.copy2(path, place / name)
    (place / "src" / "sparseland" / "kernels" / "_native.stale.so").write_bytes(b"of another Python")
    return place


def wheel(tree: Path, out: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """`pip wheel -v` of the tree, offline and without an environment of its own."""
    pip = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-v",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
        "-w",
        str(out),
        ".",
    ]
    return subprocess.run(
        pip, cwd=tree, env={**os.environ, **variables}, text=True, timeout=900,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def names(path: Path) -> set[str]:
    return {name for name in zipfile.ZipFile(path).namelist() if not name.endswith("/")}


def try_it(place: Path, script: str) -> str:
    """What a fresh Python says that finds the package in ``place`` and nowhere else."""
    lines = f"import sys; sys.path.insert(0, {str(place)!r})\n{script}"
    found = subprocess.run([sys.executable, "-c", lines], cwd=place, text=True, capture_output=True, timeout=300)
    assert found.returncode == 0, found.stderr
    return found.stdout.strip()


LOAD = """
import sparseland.kernels as kernels
assert kernels.__file__.startswith(sys.path[0]), kernels.__file__
try: print(kernels.native().isas())
except Exception as error: print(type(error).__name__, error)
"""


def test_without_a_compiler_the_pure_package_is_installed_and_says_so(tree: Path, tmp_path: Path) -> None:
    said = wheel(tree, tmp_path, CC="false", CXX="false", SPARSELAND_ENGINE="auto")
    assert said.returncode == 0, said.stdout
    assert said.stdout.count("installed WITHOUT the C++ engine: no working C++20 compiler") == 1
    (made,) = tmp_path.glob("*.whl")
    assert made.name.endswith("-py3-none-any.whl")
    assert {name for name in names(made) if ".dist-info/" not in name} == sources(tree)
    place = tmp_path / "installed"
    zipfile.ZipFile(made).extractall(place)
    heard = try_it(place, LOAD)
    assert "Error" in heard.split()[0] and len(heard.splitlines()) == 1, heard


def test_the_engine_can_be_asked_for_and_declined(tree: Path, tmp_path: Path) -> None:
    refused = wheel(tree, tmp_path, CC="false", CXX="false", SPARSELAND_ENGINE="required")
    assert refused.returncode != 0 and not list(tmp_path.glob("*.whl"))
    off = wheel(tree, tmp_path, SPARSELAND_ENGINE="off")
    assert off.returncode == 0, off.stdout
    assert "WITHOUT the C++ engine (SPARSELAND_ENGINE=off)" in off.stdout
    assert not any(name.endswith(".so") for path in tmp_path.glob("*.whl") for name in names(path))


@pytest.mark.slow
def test_with_a_compiler_the_extension_is_in_the_wheel_and_works(tree: Path, tmp_path: Path) -> None:
    need("asan")  # the compiler of this machine, CMake and Ninja
    said = wheel(tree, tmp_path, SPARSELAND_ENGINE="required")
    assert said.returncode == 0, said.stdout[-4000:]
    assert "WITHOUT" not in said.stdout
    (made,) = tmp_path.glob("*.whl")
    extension = {name for name in names(made) if name.endswith((".so", ".pyd"))}
    assert {Path(name).name.split(".")[0] for name in extension} == {"_native"} and len(extension) == 1
    assert {name for name in names(made) if ".dist-info/" not in name} == sources(tree) | extension
    place = tmp_path / "installed"
    zipfile.ZipFile(made).extractall(place)
    assert "'plain'" in try_it(place, LOAD)


def test_a_source_distribution_holds_what_builds_it(tree: Path, tmp_path: Path) -> None:
    lines = f"from scikit_build_core.build import build_sdist; print(build_sdist({str(tmp_path)!r}))"
    made = subprocess.run([sys.executable, "-c", lines], cwd=tree, text=True, capture_output=True, timeout=300)
    assert made.returncode == 0, made.stderr
    (path,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        inside = {name.partition("/")[2] for name in archive.getnames()}
    wanted = {
        "CMakeLists.txt",
        "pyproject.toml",
        "LICENSE",
        "cmake/engine.cmake",
        "cpp/include/simd.h",
        "cpp/module.cc",
    }
    assert wanted <= inside
    assert {f"src/{name}" for name in sources(tree)} <= inside
    assert not {name for name in inside if name.endswith((".so", ".pyc"))}


def test_importing_the_package_loads_no_extension() -> None:
    script = "import sys, sparseland, sparseland.kernels; print('sparseland.kernels._native' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", script], text=True, capture_output=True, timeout=300)
    assert said.stdout.strip() == "False", said.stderr
