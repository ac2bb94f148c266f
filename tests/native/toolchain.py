"""What the tests of this folder share: a target of tools/native.py, built, or skipped where its compiler is missing."""

from __future__ import annotations

import os
import subprocess

import pytest

from tools import native

PATIENCE = 1500.0  # seconds until a program that does not end is given up


def need(name: str) -> None:
    """Skip the test where a program of the target is missing; fail where continuous integration must have it."""
    lacking = native.missing(name)
    if lacking:
        said = f"{name} needs {', '.join(lacking)} ({', '.join(lacking.values())}): `make toolchains` installs it"
        if os.environ.get("CI"):
            pytest.fail(said)
        pytest.skip(said)


def built(name: str, program: str) -> None:
    """Compile a program of the target, only what changed; skips or fails as `need` does."""
    need(name)
    try:
        native.build(name, program)
    except SystemExit as error:
        pytest.fail(f"{program} does not compile for {name}:\n{error}")


def say(name: str, program: str, *arguments: str) -> list[str]:
    """What a program of the target says on each of its CPUs; a failure of it fails the test."""
    built(name, program)
    heard = []
    for command in native.commands(name, program, *arguments):
        found = subprocess.run(
            command, env=native.environment(), cwd=native.ROOT, text=True, errors="replace", timeout=PATIENCE,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        told = native.told(found.stdout)
        assert found.returncode == 0, f"{' '.join(command)} ended with {found.returncode}:\n{told[-6000:]}"
        heard.append(told)
    return heard


def oracle(name: str, cases: int) -> list[str]:
    """What the oracle says of ``cases`` random cases of each kind of op, whole and damaged, on each of the CPUs."""
    say(name, "oracle", "--cases", str(cases), "--broken")
    return say(name, "oracle", "--cases", str(cases))
