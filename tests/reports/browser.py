"""Chromium without a screen: Debian's packages chromium and chromium-driver."""

from __future__ import annotations

import base64
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BINARIES = ("chromium", "chromedriver")
WIDTHS = (1280, 400)
"""Of a screen and of a telephone, in pixels."""
FIGURES = """
return [...document.querySelectorAll('.js-plotly-plot')].filter(plot => plot.data).map(plot => ({
    id: plot.id,
    title: plot.layout.title?.text ?? '',
    width: plot.clientWidth,
    drawn: plot.querySelectorAll('.main-svg').length,
    lines: (plot.layout.shapes ?? []).map(shape => shape.y0),
    traces: plot.data.map(trace => ({
        type: trace.type ?? 'scatter', name: trace.name ?? '', mode: trace.mode ?? '',
        x: Array.from(trace.x ?? []), y: Array.from(trace.y ?? []),
        z: Array.from(trace.z ?? [], row => Array.from(row)),
        customdata: Array.from(trace.customdata ?? []),
        text: [trace.text ?? []].flat(9),
    })),
}))
"""

ARTIFACTS = """
const links = [...document.querySelectorAll('a[href*="/artifacts/"]')]
return Object.fromEntries(links.map(link => [link.download, link.href]))
"""


def missing() -> str | None:
    """What is not there for a browser; None if all is."""
    lacking = [name for name in BINARIES if shutil.which(name) is None]
    try:
        import selenium  # noqa: F401
    except ImportError:
        lacking.append("selenium")
    return f"no browser: {', '.join(lacking)} not found" if lacking else None


@dataclass(frozen=True)
class Browser:
    """A window, and what it shows."""

    driver: Any

    def open(self, url: str, width: int = WIDTHS[0], height: int = 900) -> None:
        """Goes to an address in a window so wide that the page has ``width`` pixels."""
        self.driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600},
        )
        self.driver.get("about:blank")
        self.driver.get_log("browser")
        self.driver.get(url)

    def until(self, what: Callable[[], Any], seconds: float = 60) -> Any:
        """Waits until something is true, and returns it."""
        end = time.monotonic() + seconds
        while not (found := what()):
            if time.monotonic() > end:
                raise TimeoutError(
                    f"Not there after {seconds} s. The page says: {self.text[:2000]}"
                )
            time.sleep(0.05)
        return found

    @property
    def text(self) -> str:
        """All that can be read."""
        return self.driver.execute_script("return document.body.innerText")

    def figures(self) -> list[dict[str, Any]]:
        """The figures of plotly that are drawn, with their values."""
        return self.driver.execute_script(FIGURES)

    def cards(self) -> dict[str, dict[str, Any]]:
        """The figures that a search has left in the dashboard, by their keys, in order."""
        mark = "user-defined-plot:"
        return {
            figure["id"].removeprefix(mark): figure
            for figure in self.figures()
            if figure["id"].startswith(mark)
        }

    def artifacts(self) -> dict[str, str]:
        """Addresses of the files of a trial, by their names."""
        return self.driver.execute_script(ARTIFACTS)

    def seconds(self, url: str, what: Callable[[], Any]) -> float:
        """How long something takes to be there after an address was entered."""
        start = time.monotonic()
        self.open(url)
        self.until(what)
        return time.monotonic() - start

    def settled(self) -> None:
        """Waits until nothing changes any more."""
        before = None
        while before != (before := (self.text, len(self.figures()))):
            time.sleep(1)  # cards are drawn one by one: unchanged for a second is done

    def fetched(self, url: str) -> str:
        """What the page gets from an address."""
        script = "fetch(arguments[0]).then(got => got.text()).then(arguments[1])"
        return self.driver.execute_async_script(script, url)

    def errors(self) -> list[str]:
        """What the page has complained of on its console since it was opened."""
        logged = self.driver.get_log("browser")
        return [entry["message"] for entry in logged if entry["level"] == "SEVERE"]

    def overflow(self) -> int:
        """By how many pixels the page is wider than the window."""
        root = "document.documentElement"
        return self.driver.execute_script(f"return {root}.scrollWidth - {root}.clientWidth")

    def picture(self, file: Path) -> Path:
        """Takes a picture of the page, all of its length."""
        shot = self.driver.execute_cdp_cmd(
            "Page.captureScreenshot", {"captureBeyondViewport": True}
        )
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(base64.b64decode(shot["data"]))
        return file


@contextmanager
def browser() -> Iterator[Browser]:
    """Starts one, and ends it."""
    from selenium.webdriver import Chrome, ChromeOptions, ChromeService

    options = ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for argument in (
        "--headless=new",
        "--no-sandbox",  # root, as in a container, has none
        "--disable-dev-shm-usage",
        "--disable-gpu",
        "--hide-scrollbars",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    # The path, so that selenium does not look for a driver in the network.
    driver = Chrome(options, ChromeService(shutil.which("chromedriver")))
    try:
        yield Browser(driver)
    finally:
        driver.quit()
