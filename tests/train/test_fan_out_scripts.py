"""Fanning out from a script of one's own, and while a worker imports it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sparseland.core.errors import SparselandError
from sparseland.train import fan_out_worker
from sparseland.train.fan_out import Result, require
from tests.train.fan_out_jobs import job
from tests.train.test_fan_out import PATIENCE, quiet

# -------------------------------------------------------------------------------------------------------------- scripts
SCRIPT = """
import sys
from sparseland.train.fan_out import fan_out, require
def double(x):
    return 2 * x
if __name__ == "__main__":
    print(require(fan_out(double, {"a": {"x": 4}}, retries=0, progress=False)))
"""


def test_a_script_may_fan_out_its_own_function(tmp_path: Path) -> None:
    (tmp_path / "my_script.py").write_text(SCRIPT)
    env = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-W", "error", str(tmp_path / "my_script.py")]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert (done.stdout.strip(), done.stderr) == ("{'a': 8}", "")


def test_a_call_while_a_worker_imports_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fan_out_worker, "importing", "my_script:double")  # as in a script without a guard
    with pytest.raises(SparselandError, match="imported my_script:double: put the call below if __name__ == "):
        quiet(job, {"a": {}})


def test_require_lets_cached_pass() -> None:
    assert require({"a": Result("a", "cached", 1)}) == {"a": 1}
