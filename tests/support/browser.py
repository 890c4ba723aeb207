"""Headless Chromium for the tests marked `browser`, through Debian's chromium and chromedriver."""

from __future__ import annotations

import shutil
from contextlib import contextmanager
from importlib.util import find_spec

BINARY, DRIVER = "chromium", "chromedriver"


def why_no_browser():
    """A reason not to run the tests marked `browser`, or None."""
    if shutil.which(BINARY) is None or shutil.which(DRIVER) is None:
        return "chromium or chromedriver is not installed (apt-get install chromium-driver)"
    if find_spec("selenium") is None:
        return 'selenium is not installed (pip install "stope[test]")'
    return None


@contextmanager
def chromium(downloads, width=1280, height=900):
    """A driver of a window of this size that saves files to a folder and asks no network."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which(BINARY)
    for argument in ("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage"):
        options.add_argument(f"--{argument}")
    options.add_argument("--host-resolver-rules=MAP * ~NOTFOUND")
    options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    service = webdriver.ChromeService(executable_path=shutil.which(DRIVER))
    driver = webdriver.Chrome(options=options, service=service)
    try:
        driver.execute_cdp_cmd("Performance.enable", {})
        resize(driver, width, height)
        yield driver
    finally:
        driver.quit()


def resize(driver, width, height):
    """Give the page so many CSS pixels: windows do not become as narrow as telephones."""
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


def prefer(driver, theme):
    """Have the system prefer light or dark."""
    feature = {"name": "prefers-color-scheme", "value": theme}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})


def seconds_of(driver):
    """Processor seconds that the page's thread has taken since it was opened."""
    metrics = driver.execute_cdp_cmd("Performance.getMetrics", {})["metrics"]
    return next(each["value"] for each in metrics if each["name"] == "ThreadTime")


def opened(driver, path):
    """Open a page, and return when its tables and figures are there: milliseconds of each."""
    from selenium.webdriver.support.ui import WebDriverWait

    driver.get(path.absolute().as_uri())
    WebDriverWait(driver, 60, poll_frequency=0.02).until(
        lambda d: d.execute_script(
            "const d = document.documentElement.dataset; return d.ready || d.failed"
        )
    )
    names = "const d = document.documentElement.dataset; return [d.failed, d.tables, d.ready]"
    failed, tables, ready = driver.execute_script(names)
    assert failed is None, failed
    return int(tables), int(ready)
