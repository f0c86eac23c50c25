"""A real browser without a screen: opens pages, says what is on them, takes pictures of them."""

import base64
import itertools
import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import pytest
from websockets.sync.client import ClientConnection, connect

from tests.worlds.waiting import await_

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run", "--mute-audio")
START_SECONDS = 60
ANSWER_SECONDS = 60
_ANSWER_BYTES = 64 << 20
_CHECK_SECONDS = 0.2
_REST_SECONDS = 1.0
_COUNT_REQUESTS = """(() => {
    const ask = window.fetch;
    window.requestsOpen = 0;
    window.fetch = (...what) => {
        window.requestsOpen++;
        return ask(...what).finally(() => window.requestsOpen--);
    };
})()"""
_AT_REST = """window.requestsOpen || document.querySelector('[class*="pinner"]')
    || document.body.innerText.includes('Loading') ? null : document.body.innerText.replace(/\\d+/g, '')"""
"""What a page at rest holds; clocks go on."""


def browser() -> str:
    """The program; skips the test where there is none."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip(f"no browser on PATH: looked for {', '.join(BROWSERS)}")
    return found


class Page:
    """A tab, driven by the Chrome DevTools protocol. One thread at a time."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._numbers = itertools.count(1)
        self._call("Page.enable")
        self._call("Page.addScriptToEvaluateOnNewDocument", source=_COUNT_REQUESTS)

    def size(self, width: int, height: int) -> Self:
        self._call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        return self

    def open(self, url: str) -> Self:
        """Go to a page; what it holds may still be on its way."""
        answer = self._call("Page.navigate", url=url)
        assert "errorText" not in answer, f"{url}: {answer['errorText']}"
        return self

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression."""
        answer = self._call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def text(self) -> str:
        """All that a reader can see, and what lies below the window's edge."""
        return str(self.run("document.body ? document.body.innerText : ''"))

    def await_script(self, condition: str, what: str, limit_seconds: float) -> None:
        """Wait until a JavaScript expression is true; `what` says what is awaited."""
        await_(
            what,
            lambda: self.run(f"!!({condition})"),
            limit_seconds,
            check_seconds=_CHECK_SECONDS,
            seen=lambda: f"on:\n{self.text()[:4_000]}",
        )

    def await_text(self, *wanted: str, limit_seconds: float = 60) -> Self:
        """Wait until the page shows all of these."""
        condition = " && ".join(f"document.body.innerText.includes({json.dumps(text)})" for text in wanted)
        self.await_script(f"document.body && {condition}", " and ".join(map(repr, wanted)), limit_seconds)
        return self

    def await_rest(self, limit_seconds: float = 60) -> Self:
        """Wait until nothing is being loaded, and the page has stayed as it is for a moment."""
        deadline, before = time.monotonic() + limit_seconds, None
        while (now := self.run(_AT_REST)) is None or now != before:
            assert time.monotonic() < deadline, f"after {limit_seconds:g} s still changing:\n{self.text()[:4_000]}"
            before = now
            time.sleep(_REST_SECONDS)
        return self

    def picture(self, path: Path) -> None:
        """Save what the window shows as PNG."""
        path.write_bytes(base64.b64decode(self._call("Page.captureScreenshot", format="png")["data"]))

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = next(self._numbers)
        self._connection.send(json.dumps({"id": number, "method": method, "params": parameters}))
        deadline = time.monotonic() + ANSWER_SECONDS
        while True:
            message = json.loads(self._connection.recv(timeout=max(0.0, deadline - time.monotonic())))
            if message.get("id") == number:
                assert "error" not in message, f"{method}: {message['error']}"
                answer: dict[str, Any] = message["result"]
                return answer


@contextmanager
def opened_browser(folder: Path) -> Iterator[Page]:
    """A browser with one empty tab; its profile lives in `folder`, a new one."""
    folder.mkdir(parents=True)
    command = [browser(), *FLAGS, f"--user-data-dir={folder}", "--remote-debugging-port=0", "about:blank"]
    with (folder / "browser.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        with connect(_tab(process, folder), max_size=_ANSWER_BYTES, open_timeout=START_SECONDS) as connection:
            yield Page(connection)
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(20)


def _tab(process: "subprocess.Popen[bytes]", folder: Path) -> str:
    """Address of the tab's socket: the browser notes its port in a file, then lists its tabs."""
    noted = folder / "DevToolsActivePort"

    def address() -> list[str]:
        assert process.poll() is None, (folder / "browser.log").read_text(errors="replace")[-2_000:]
        lines = noted.read_text().split() if noted.exists() else []
        return lines if len(lines) >= 2 else []

    lines = await_("the browser answers", address, START_SECONDS, check_seconds=_CHECK_SECONDS)
    with connect(f"ws://127.0.0.1:{lines[0]}{lines[1]}", open_timeout=START_SECONDS) as whole:
        whole.send(json.dumps({"id": 1, "method": "Target.getTargets"}))
        while (answer := json.loads(whole.recv(timeout=START_SECONDS))).get("id") != 1:
            continue
    (tab,) = (t["targetId"] for t in answer["result"]["targetInfos"] if t["type"] == "page")
    return f"ws://127.0.0.1:{lines[0]}/devtools/page/{tab}"
