"""Builds of the C++ engine beside the Python extension: under sanitizers, for other CPUs, for the browser, as wheels.

python tools/native.py asan          # build/asan: oracle and fuzz under AddressSanitizer and UBSan, and run them
python tools/native.py tsan          # build/tsan: the pool of threads under ThreadSanitizer
python tools/native.py aarch64       # build/aarch64: the oracle under qemu
python tools/native.py older         # build/older: the oracle on x86-64 without AVX-512, and without AVX
python tools/native.py wasm          # build/wasm: the oracle in Node, and sparseland.js for pages
python tools/native.py wheels        # dist/: manylinux wheels for x86-64 and aarch64
python tools/native.py toolchains    # what these need, from apt, where it is missing
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "build"
SYSROOT = "/usr/aarch64-linux-gnu"
CASES = os.environ.get("CASES", "50")  # of every kind of op, on every instruction set
ENVIRONMENT = {
    "ASAN_OPTIONS": "detect_leaks=1:allocator_may_return_null=1:max_allocation_size_mb=4096",
    "UBSAN_OPTIONS": "print_stacktrace=1",
    "TSAN_OPTIONS": "halt_on_error=1",
    "NODE_PATH": "/usr/share/nodejs",  # Debian's emscripten asks Node for a module that lies there
}


@dataclass(frozen=True)
class Target:
    """A way to build the engine: what it needs, CMake's definitions, and what stands before a program to run it."""

    needs: dict[str, str]  # program: Debian package
    folder: str  # below build/
    defines: dict[str, str] = field(default_factory=lambda: {"SL_MODULE": "OFF"})
    before: tuple[tuple[str, ...], ...] = ((),)  # one for each CPU that is tried
    configure: tuple[str, ...] = ("cmake",)
    suffix: str = ""


CMAKE = {"cmake": "cmake", "ninja": "ninja-build"}
HERE = {**CMAKE, os.environ.get("CXX", "c++"): "g++"}
NATIVE = {"SL_INPLACE": "ON", "Python_EXECUTABLE": sys.executable}
TARGETS = {
    "here": Target(HERE, "native", NATIVE),
    "older": Target(
        {**HERE, "qemu-x86_64": "qemu-user"}, "native", NATIVE,
        before=(("qemu-x86_64", "-cpu", "Haswell"), ("qemu-x86_64", "-cpu", "Nehalem")),
    ),
    "asan": Target(HERE, "asan", {"SL_MODULE": "OFF", "SL_SANITIZE": "address;undefined"}),
    "tsan": Target(HERE, "tsan", {"SL_MODULE": "OFF", "SL_SANITIZE": "thread"}),
    "aarch64": Target(
        {**CMAKE, "aarch64-linux-gnu-g++": "g++-aarch64-linux-gnu", "qemu-aarch64": "qemu-user"}, "aarch64",
        {"SL_MODULE": "OFF", "CMAKE_TOOLCHAIN_FILE": str(ROOT / "cmake" / "aarch64.cmake")},
        before=(("qemu-aarch64", "-L", SYSROOT),),
    ),
    # Node's own `fetch` (from 18 on) makes older emscriptens ask it for files.
    "wasm": Target(
        {**CMAKE, "em++": "emscripten", "node": "nodejs"}, "wasm",
        before=(("node", "--no-experimental-fetch"),), configure=("emcmake", "cmake"), suffix=".js",
    ),
}  # fmt: skip
PROGRAMS = ("oracle", "fuzz", "pool")


def environment() -> dict[str, str]:
    """This process's environment, the programs of its Python first, with what the targets want."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    return {**ENVIRONMENT, **os.environ, "PATH": path}


def missing(name: str) -> dict[str, str]:
    """Programs that a target needs and that are not here, and the Debian packages that bring them."""
    path = environment()["PATH"]
    return {
        program: package for program, package in TARGETS[name].needs.items() if not shutil.which(program, path=path)
    }


def told(said: str) -> str:
    """What a program said, without qemu's warnings of what it does not emulate: hundreds, for each thread anew."""
    return "".join(line for line in said.splitlines(keepends=True) if not line.startswith("qemu-x86_64: warning"))


def call(*command: str | Path, quiet: bool = False) -> str:
    """Run a command in the repository; what it said. A failure ends the program with what it said last."""
    found = subprocess.run(
        [str(word) for word in command], cwd=ROOT, env=environment(), text=True, errors="replace",
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    if found.returncode:
        said = "\n".join(line[:300] for line in told(found.stdout).splitlines()[-60:])
        raise SystemExit(f"{said}\nfailed with {found.returncode}: {' '.join(map(str, command))}")
    if not quiet:
        print(told(found.stdout), end="", flush=True)
    return found.stdout


def build(name: str, *programs: str) -> Path:
    """Configure a target and compile some of its programs, or its default; returns its folder."""
    lacking = missing(name)
    if lacking:
        packages = ", ".join(lacking.values())
        raise SystemExit(f"{name} needs {', '.join(lacking)}: `make toolchains`, or install {packages}")
    target = TARGETS[name]
    folder = BUILD / target.folder
    folder.mkdir(parents=True, exist_ok=True)
    defines = [f"-D{key}={value}" for key, value in {"SL_TESTS": "ON", **target.defines}.items()]
    which = [word for program in programs for word in ("--target", program)]
    with (folder / ".lock").open("w") as lock:  # two Ninjas in one folder would write over each other
        fcntl.flock(lock, fcntl.LOCK_EX)
        call(*target.configure, "-S", ROOT, "-B", folder, "-G", "Ninja", *defines, quiet=True)
        jobs, quiet = os.environ.get("JOBS", "2"), name != "here" or bool(programs)
        call("cmake", "--build", folder, "-j", jobs, *which, quiet=quiet)
    return folder


def commands(name: str, program: str, *arguments: str) -> list[list[str]]:
    """How a program of a built target is run, once for each CPU."""
    target = TARGETS[name]
    path = BUILD / target.folder / f"{program}{target.suffix}"
    return [[*before, str(path), *arguments] for before in target.before]


def run(name: str, program: str, *arguments: str) -> None:
    """Build a program of a target and run it on each of its CPUs."""
    build(name, program)
    for command in commands(name, program, *arguments):
        print(f"== {name}: {' '.join(word.removeprefix(f'{ROOT}/') for word in command)}", flush=True)
        call(*command)


def extension() -> None:
    """The extension for the editable install. Without a C++ compiler that is left out, except in CI."""
    lacking = missing("here")
    if lacking and not os.environ.get("CI"):
        print(f"the C++ engine is not built: {', '.join(lacking)} missing; everything else works", file=sys.stderr)
        return
    build("here")


def toolchains() -> None:
    """Install what is missing, where apt-get is there and may; say what is left."""
    packages = sorted({package for name in TARGETS for package in missing(name).values()})
    if not packages:
        return
    if not shutil.which("apt-get") or os.geteuid() != 0:
        print(f"missing here, and no right to install it: {', '.join(packages)}; their tests will be skipped")
        return
    print(f"installing {' '.join(packages)}", flush=True)
    call("apt-get", "update", "-qq", quiet=True)
    install = ("apt-get", "install", "-y", "-qq", "--no-install-recommends")
    call("env", "DEBIAN_FRONTEND=noninteractive", *install, *packages, quiet=True)


def wheels() -> None:
    """Wheels for this CPU and, where its compiler is here, for aarch64; auditwheel says what Linux they need."""
    made = BUILD / "wheels"
    shutil.rmtree(made, ignore_errors=True)
    python = f"cp{sys.version_info.major}{sys.version_info.minor}"
    soabi = f"cpython-{python[2:]}-aarch64-linux-gnu"
    ways: list[tuple[str, list[str]]] = [("", [])]
    if missing("aarch64"):
        print(f"no aarch64 wheel: {', '.join(missing('aarch64'))} missing")
    else:
        cross = [
            "_PYTHON_HOST_PLATFORM=linux-aarch64", f"SETUPTOOLS_EXT_SUFFIX=.{soabi}.so",
            f"CMAKE_TOOLCHAIN_FILE={ROOT / 'cmake' / 'aarch64.cmake'}",
        ]  # fmt: skip
        ways.append(("-aarch64", cross))
    pip = (sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", made)
    for name, variables in ways:
        folder = ("-C", f"build-dir=build/wheel{name}-{python}")
        call("env", "SPARSELAND_ENGINE=required", *variables, *pip, *folder, ".", quiet=True)
    for wheel in sorted(made.glob("*.whl")):
        call("auditwheel", "repair", "-w", ROOT / "dist", wheel, quiet=True)
        call("auditwheel", "show", wheel)


def oracle(name: str) -> None:
    """The oracle of a target: right answers, and errors for damaged programs."""
    run(name, "oracle", "--cases", CASES)
    run(name, "oracle", "--cases", CASES, "--broken")


def engine_files(folder: Path) -> list[Path]:
    """Small engine files for the fuzz: sparse and dense convolutions, depthwise ones, squeeze-excite, linears."""
    import torch

    import sparseland as sl

    folder.mkdir(parents=True, exist_ok=True)
    files = []
    nets = (("mobilenet-v1", 12, 0.1), ("mobilenet-v3-small", 16, 0.25), ("resnet-20", 8, 4), ("lenet-5", 28, None))
    for name, side, width in nets:
        wide: dict[str, Any] = {} if width is None else {"width": width}
        model = sl.zoo.build(name, in_shape=(3, side, side), classes=5, seed=0, **wide)
        sl.prune_(model, sl.methods.Magnitude(0.8))
        files.append(folder / f"{name}.sland")
        sl.deploy.convert(model, torch.zeros(1, 3, side, side), threads=2, measure=False).save(files[-1])
    return files


def asan() -> None:
    """The oracle and the loader's fuzz under ASan and UBSan."""
    oracle("asan")
    files = map(str, engine_files(BUILD / "fuzz"))
    run("asan", "fuzz", *files, "--mutations", os.environ.get("MUTATIONS", "1250"))


def wasm() -> None:
    """The oracle in Node, and the engine for pages."""
    build("wasm", "sparseland")
    oracle("wasm")


ACTIONS: dict[str, Callable[[], None]] = {
    "native": extension,
    "here": lambda: oracle("here"),
    "older": lambda: oracle("older"),
    "asan": asan,
    "tsan": lambda: run("tsan", "pool"),
    "aarch64": lambda: oracle("aarch64"),
    "wasm": wasm,
    "wheels": wheels,
    "toolchains": toolchains,
}


def main(arguments: Sequence[str]) -> None:
    if not arguments or any(name not in ACTIONS for name in arguments):
        raise SystemExit(f"which of {', '.join(ACTIONS)}? got {' '.join(arguments) or 'nothing'}")
    for name in arguments:
        ACTIONS[name]()


if __name__ == "__main__":
    main(sys.argv[1:])
