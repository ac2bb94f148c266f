"""``sparseland transport solve``: files in, files out, and one line for what is wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sparseland.transport import solve

Call = Callable[..., Any]


@pytest.fixture
def problem(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    a, b = rng.uniform(1, 2, 6), rng.uniform(1, 2, 5)
    path = tmp_path / "problem.npz"
    np.savez(path, a=a / a.sum(), b=b / b.sum(), M=rng.uniform(size=(6, 5)))
    return path


def arrays(path: Path) -> dict[str, Any]:
    with np.load(path) as held:
        return dict(held)


def test_npz_in_npz_out(call: Call, problem: Path, tmp_path: Path) -> None:
    out = tmp_path / "plan.npz"
    done = call("transport", "solve", problem, "--reg", 0.5, "--max-nz", 3, "--out", out)
    assert done.exit_code == 0, done.output
    assert "converged" in done.output and "non-zeros" in done.output
    given, found = arrays(problem), arrays(out)
    wanted = solve(given["a"], given["b"], given["M"], 0.5, reg_type="sparsity_constrained", max_nz=3)
    assert np.allclose(found["plan"], wanted.plan.numpy()) and str(found["status"]) == wanted.status
    assert float(found["value"]) == pytest.approx(float(wanted.value)) and found["u"].shape == (6,)
    assert (found["plan"] > 0).sum(0).max() <= 3


def test_csv_in_csv_out(call: Call, problem: Path, tmp_path: Path) -> None:
    given = arrays(problem)
    for name in ("M", "a", "b"):
        np.savetxt(tmp_path / f"{name}.csv", given[name], delimiter=",")
    out = tmp_path / "plan.csv"
    words = ("--a", tmp_path / "a.csv", "--b", tmp_path / "b.csv", "--reg", 0.5, "--reg-type", "l2", "--out", out)
    done = call("transport", "solve", tmp_path / "M.csv", *words)
    assert done.exit_code == 0, done.output
    lines = np.loadtxt(out, delimiter=",", skiprows=1)
    plan = np.zeros((6, 5))
    plan[lines[:, 0].astype(int), lines[:, 1].astype(int)] = lines[:, 2]
    assert np.allclose(plan.sum(1), given["a"], atol=1e-5) and np.allclose(plan.sum(0), given["b"], atol=1e-5)


def test_entropy(call: Call, problem: Path) -> None:
    done = call("transport", "solve", problem, "--reg", 0.1, "--reg-type", "entropy", "--tol", 1e-9)
    assert done.exit_code == 0 and "converged" in done.output, done.output


def test_a_bound_on_rows_and_points_without_mass(call: Call, tmp_path: Path) -> None:
    path = tmp_path / "zero.npz"
    np.savez(path, a=[0.5, 0.0, 0.5], M=np.eye(3))
    words = ("--reg", 1, "--max-nz", 2, "--axis", "row")
    done = call("transport", "solve", path, *words)
    assert done.exit_code == 2 and "zero mass" in done.output
    assert call("transport", "solve", path, *words, "--drop-zero").exit_code == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--reg", -1, "--max-nz", 2), "reg is a finite number > 0"),
        (("--reg", 1, "--max-nz", 0), "max_nz is an integer in 1"),
        (("--reg", 1), "needs max_nz"),
        (("--reg", 1, "--reg-type", "entropi"), "unknown reg_type='entropi': did you mean 'entropy'"),
        (("--reg", 1, "--max-nz", 2, "--out", "plan.txt"), "ends in .npz or .csv"),
        (("--reg", 1, "--max-nz", 2, "--out", "nowhere/plan.npz"), "no folder nowhere"),
        (("--reg", 1, "--max-nz", 2, "--a", "absent.csv"), "no file absent.csv"),
    ],
)
def test_one_line_says_what_is_wrong(call: Call, problem: Path, words: tuple[Any, ...], said: str) -> None:
    done = call("transport", "solve", problem, *words)
    assert done.exit_code == 2 and said in " ".join(done.output.split()), done.output


def test_files_that_are_no_problems(call: Call, tmp_path: Path) -> None:
    def told(name: str) -> str:
        done = call("transport", "solve", tmp_path / name, "--reg", 1, "--max-nz", 1)
        assert done.exit_code == 2, done.output
        return " ".join(done.output.split())

    assert "no file" in told("absent.npz")
    (tmp_path / "broken.npz").write_bytes(b"PK no")
    assert "cannot be read" in told("broken.npz")
    np.savez(tmp_path / "other.npz", cost=np.eye(2))
    assert "'cost'" in told("other.npz")
    np.savez(tmp_path / "empty.npz", a=[1.0])
    assert "no M" in told("empty.npz")
    (tmp_path / "words.csv").write_text("from,to\n1,2\n")
    assert "not a .csv of numbers" in told("words.csv")
    (tmp_path / "nothing.csv").write_text("")
    assert "holds no numbers" in told("nothing.csv")
    np.savez(tmp_path / "nan.npz", M=[[np.nan, 1.0]])
    assert "1 NaN" in told("nan.npz")
