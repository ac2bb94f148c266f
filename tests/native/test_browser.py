"""examples/browser in headless Chromium: a small model trained, converted, classified, timed and photographed."""

from __future__ import annotations

import functools
import importlib.util
import io
import json
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.native.toolchain import built, need
from tests.reports import browser as chromium
from tests.reports.browser import Browser
from tools import native

pytestmark = pytest.mark.slow
HERE = native.ROOT / "examples" / "browser"
CAMERA = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
PATIENCE = 120.0


class Quiet(SimpleHTTPRequestHandler):
    """Files of a folder, without a line for each."""

    extensions_map = {**SimpleHTTPRequestHandler.extensions_map, ".wasm": "application/wasm"}  # noqa: RUF012

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page with a model of two epochs on the digits."""
    need("wasm")
    built("wasm", "sparseland")
    spec = importlib.util.spec_from_file_location("browser_build", HERE / "build.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    out = tmp_path_factory.mktemp("site")
    about = module.build(out, native.BUILD / "wasm", name="digits", width=0.25, epochs=2, limit=512)
    assert abs(about["sparsity"] - 0.9) < 0.01
    return out


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    """The folder over HTTP, on this machine only."""
    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(site))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture(scope="module")
def window(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A browser whose camera is a moving test picture."""
    program = chromium.needed()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chromium, "SWITCHES", (*chromium.SWITCHES, *CAMERA))
        with Browser(program, tmp_path_factory.mktemp("profile")) as made:
            yield made


def until(window: Browser, script: str) -> Any:
    """The value of an expression once it is true."""
    end = time.monotonic() + PATIENCE
    while not (value := window.run(script)):
        assert not window.run("document.body.dataset.failed"), window.run(
            "document.getElementById('problem').textContent"
        )
        assert time.monotonic() < end, f"{script} did not become true in {PATIENCE:g} s"
        time.sleep(0.1)
    return value


def visit(window: Browser, address: str, width: int, *, dark: bool = False) -> None:
    """Open the page, and wait until both models are timed."""
    window.events.clear()
    window.page("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    window.page("Emulation.setEmulatedMedia", features=[scheme])
    window.page("Page.navigate", url=address)
    until(window, "document.readyState === 'complete' && document.body?.dataset.measured")


SHARES = "[...document.querySelectorAll('#{} li b')].map((b) => parseFloat(b.textContent))"


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, True)])
def test_the_page_classifies_and_times(
    window: Browser, address: str, site: Path, width: int, dark: bool, tmp_path: Path
) -> None:
    from PIL import Image

    visit(window, address, width, dark=dark)
    assert window.run("document.documentElement.scrollWidth") <= width
    for kind in ("dense", "sparse"):
        shares = window.run(SHARES.format(kind))
        assert len(shares) == 3 and shares == sorted(shares, reverse=True) and sum(shares) <= 102
        assert float(window.run(f"document.getElementById('{kind}-ms').value").split()[0]) > 0
    assert "× as fast (median of 30)" in window.run("document.getElementById('ratio').textContent")
    assert "Kernels: wasm" in window.run("document.getElementById('small').textContent")
    shot = window.picture()
    (native.BUILD / f"browser-{width}.png").write_bytes(shot)
    pixels = np.asarray(Image.open(io.BytesIO(shot)).convert("RGB"))
    assert pixels.shape[1] == width and len(np.unique(pixels.reshape(-1, 3), axis=0)) > 30
    assert (pixels.reshape(-1, 3).mean() < 90) == dark
    assert all(url.startswith((address, "blob:")) for url in window.requests())


def test_the_engine_in_the_browser_agrees_with_the_one_here(window: Browser, address: str, site: Path) -> None:
    from sparseland.deploy import runtime

    visit(window, address, 1280)
    images = np.random.default_rng(0).standard_normal((4, 1, 1, 32, 32)).astype(np.float32)
    for kind in ("dense", "sparse"):
        engine = runtime.load(site / f"{kind}.sland")
        for image in images:
            script = (
                f"((m) => (m.put({json.dumps(image.ravel().tolist())}), m.run(), [...m.logits()]))(state.models.{kind})"
            )
            there = np.array(window.run(script))
            here = np.asarray(engine(image)).ravel()
            np.testing.assert_allclose(there, here, rtol=1e-3, atol=1e-4)


def test_a_file_and_the_webcam_are_classified(window: Browser, address: str, tmp_path: Path) -> None:
    from PIL import Image

    visit(window, address, 1280)
    Image.new("RGB", (300, 200), "white").save(tmp_path / "white.png")
    root = window.page("DOM.getDocument")["root"]["nodeId"]
    node = window.page("DOM.querySelector", nodeId=root, selector="#file")["nodeId"]
    window.page("DOM.setFileInputFiles", nodeId=node, files=[str(tmp_path / "white.png")])
    until(window, "state.pixels.every((x) => x < 0.01)")  # dark on light is turned round
    window.run("document.getElementById('webcam').click()")
    until(window, "state.stream && state.pixels.some((x) => x > 0.2)")
    window.run("document.getElementById('webcam').click()")
    assert window.run("state.stream === null && document.getElementById('video').hidden")


def test_a_broken_file_is_an_error_on_the_page(window: Browser, address: str, site: Path) -> None:
    whole = (site / "sparse.sland").read_bytes()
    try:
        (site / "sparse.sland").write_bytes(whole[: len(whole) // 2])
        window.page("Page.navigate", url=address)
        end = time.monotonic() + PATIENCE
        while not window.run("document.body?.dataset.failed") and time.monotonic() < end:
            time.sleep(0.1)
        assert "sparse: " in window.run("document.getElementById('problem').textContent")
    finally:
        (site / "sparse.sland").write_bytes(whole)


def test_the_engine_runs_in_node(site: Path) -> None:
    lines = """
    const make = require(process.argv[1]), fs = require("fs");
    make().then((sl) => {
      const file = fs.readFileSync(process.argv[2]), place = sl._malloc(file.length);
      sl.HEAPU8.set(file, place);
      const engine = sl._sl_load(place, file.length);
      const bad = sl._sl_load(place, file.length - 1), why = sl.UTF8ToString(sl._sl_error());
      const inputs = sl._sl_count(engine, 0), isa = sl.UTF8ToString(sl._sl_isa());
      console.log(JSON.stringify({ engine, inputs, isa, bad, why }));
    });"""
    node = native.TARGETS["wasm"].before[0]
    said = subprocess.run(
        [*node, "-e", lines, str(site / "sparseland.js"), str(site / "dense.sland")],
        env=native.environment(), text=True, capture_output=True, timeout=300,
    )  # fmt: skip
    assert said.returncode == 0, said.stderr[-2000:]
    heard = json.loads(said.stdout)
    assert heard["engine"] > 0 and heard["inputs"] == 1 and heard["isa"] == "wasm"
    assert heard["bad"] == 0 and heard["why"]
