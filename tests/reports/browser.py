"""Headless Chromium over its debugging pipe: pages at an exact width and colour scheme, real keys, screenshots.

Only the standard library, and pytest to skip: messages are JSON ended by a NUL byte, written to the browser's file
descriptor 3 and read from its 4. ``--window-size`` cannot be used for phones: a headless window is never narrower
than 500 pixels.
"""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PATIENCE = 120.0  # seconds until a browser that does not answer is given up, on a machine that may be busy
SWITCHES = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-extensions",
    "--disable-dev-shm-usage", "--force-device-scale-factor=1", "--remote-debugging-pipe",
)  # fmt: skip


def find() -> str | None:
    """The path of a browser, or None."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


def required() -> bool:
    """Whether a missing browser is a failure: in continuous integration, and where somebody says so."""
    return bool(os.environ.get("CI")) or os.environ.get("SPARSELAND_BROWSER") == "required"


def needed() -> str:
    """The path of a browser; the test is skipped without one, and fails where one is required."""
    program = find()
    if program is None:
        said = f"no browser here ({', '.join(NAMES)}): the page was not looked at; `make browser` installs one"
        if required():
            pytest.fail(said)
        pytest.skip(said)
    return program


class BrowserError(RuntimeError):
    """The browser does not start, does not answer, or says no."""


class Browser:
    """One browser with one page.

    Parameters:
        program: its path. profile: a folder of its own.
    """

    def __init__(self, program: str, profile: Path) -> None:
        theirs_in, ours_out = os.pipe()
        ours_in, theirs_out = os.pipe()
        self._out, self._in, self._rest = ours_out, ours_in, b""
        self._ids = itertools.count(1)
        self.events: list[dict[str, Any]] = []
        # The child's 3 and 4: a shell moves the two pipes there, whatever numbers they have here.
        line = f'exec "$0" "$@" 3<&{theirs_in} 4>&{theirs_out}'
        command = ["/bin/bash", "-c", line, program, *SWITCHES, f"--user-data-dir={profile}", "about:blank"]
        self.process = subprocess.Popen(
            command, pass_fds=(theirs_in, theirs_out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        os.close(theirs_in)
        os.close(theirs_out)
        try:
            target = self.call("Target.createTarget", url="about:blank")["targetId"]
            self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
            for domain in ("Page", "Runtime", "Network"):
                self.page(f"{domain}.enable")
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Browser:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the browser and its helpers."""
        if self.process.poll() is None:
            try:
                self._send({"id": next(self._ids), "method": "Browser.close"})
                self.process.wait(timeout=10)
            except (OSError, subprocess.TimeoutExpired):
                self.process.kill()
                self.process.wait()
        for end in (self._out, self._in):
            with contextlib.suppress(OSError):
                os.close(end)

    def _send(self, message: dict[str, Any]) -> None:
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._out, data) :]

    def _receive(self, until: float) -> dict[str, Any]:
        while b"\0" not in self._rest:
            left = until - time.monotonic()
            if left <= 0 or not select.select([self._in], [], [], left)[0]:
                raise BrowserError(f"the browser has not answered for {PATIENCE:g} s")
            data = os.read(self._in, 1 << 20)
            if not data:
                raise BrowserError("the browser has ended")
            self._rest += data
        message, _, self._rest = self._rest.partition(b"\0")
        return dict(json.loads(message))

    def call(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        """One command of the DevTools protocol; its result."""
        number = next(self._ids)
        message: dict[str, Any] = {"id": number, "method": method, "params": parameters}
        self._send(message if session is None else {**message, "sessionId": session})
        until = time.monotonic() + PATIENCE
        while True:
            answer = self._receive(until)
            if answer.get("id") == number:
                if "error" in answer:
                    raise BrowserError(f"{method}: {answer['error'].get('message')}")
                return dict(answer["result"])
            if "method" in answer:
                self.events.append(answer)

    def page(self, method: str, **parameters: Any) -> dict[str, Any]:
        """A command to the page."""
        return self.call(method, self.session, **parameters)

    def show(self, path: Path, width: int, *, dark: bool = False, height: int = 900) -> None:
        """Open a file at a width in CSS pixels, as a light or a dark page, and wait until it is there."""
        self.events.clear()
        self.page("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.page("Emulation.setEmulatedMedia", features=[scheme])
        failed = self.page("Page.navigate", url=path.as_uri()).get("errorText")
        if failed:
            raise BrowserError(f"{path}: {failed}")
        until = time.monotonic() + PATIENCE
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            event = self._receive(until)
            if "method" in event:
                self.events.append(event)

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression on the page."""
        found = self.page("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in found:
            raise BrowserError(str(found["exceptionDetails"].get("exception", {}).get("description")))
        return found["result"].get("value")

    def press(self, key: str, text: str = "") -> None:
        """A key, as if it were pressed: "Tab", "Enter" with text "\\r", " " with text " "."""
        codes = {"Tab": 9, "Enter": 13, " ": 32}
        about = {"key": key, "code": "Space" if key == " " else key, "windowsVirtualKeyCode": codes[key]}
        self.page("Input.dispatchKeyEvent", type="keyDown", text=text, **about)
        self.page("Input.dispatchKeyEvent", type="keyUp", **about)

    def picture(self) -> bytes:
        """The whole page as PNG."""
        size = self.page("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
        shot = self.page("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)
        return base64.b64decode(shot["data"])

    def requests(self) -> list[str]:
        """The addresses that the page has asked for since `show`, data: URIs apart."""
        asked = [e["params"]["request"]["url"] for e in self.events if e["method"] == "Network.requestWillBeSent"]
        return [url for url in asked if not url.startswith("data:")]
