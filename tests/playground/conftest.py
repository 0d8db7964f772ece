"""The shipped model and two random ones on a real socket, and Debian's Chromium to look at its page with."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.conftest import SHIPPED_MODELS
from tests.served import served

CHROMIUM = Path(os.environ.get("CHROMIUM", "/usr/bin/chromium"))
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update",
]  # fmt: skip
SHOTS = Path(__file__).parents[2] / "build" / "playground"
PATIENCE_MS = 15_000
SHIPPED, PHOTOGRAPHS = "resnet20-cifar10", "resnet18-imagenette"


@pytest.fixture(scope="session")
def address(early_folder: Path, models_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The shipped models, thumbnails first, and random ones: ``early`` has early exits, ``small`` none; their URL."""
    models = tmp_path_factory.mktemp("playground")
    shipped = (SHIPPED_MODELS / name for name in (SHIPPED, PHOTOGRAPHS))
    for folder in (*shipped, early_folder / "early", models_folder / "small"):
        (models / folder.name).symlink_to(folder)
    with served("--models", str(models), "--default-model", SHIPPED) as base:
        yield base


# Of each file of tests and not of the session: while Playwright runs, no other test can run an event loop.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if not CHROMIUM.exists():
        pytest.skip(f"there is no {CHROMIUM}: install Debian's package chromium, or name another with CHROMIUM")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def visit(browser, address):
    """``with visit(width=360, dark=True) as page`` opens the page, and sees that nothing in it failed or went abroad.

    ``wait=False`` does not wait for the first answer; ``told`` are complaints that are part of the test.
    """

    @contextmanager
    def open_page(
        base: str = address, *, width: int = 1280, height: int = 900, dark: bool = False, wait: bool = True,
        told: tuple[str, ...] = (), **options: object,
    ) -> Iterator[Page]:  # fmt: skip
        context = browser.new_context(
            viewport={"width": width, "height": height}, color_scheme="dark" if dark else "light",
            permissions=["clipboard-read", "clipboard-write"], **options,
        )  # fmt: skip
        context.set_default_timeout(PATIENCE_MS)
        page = context.new_page()
        complaints, abroad = [], []
        page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: abroad.append(request.url) if strange(request.url, base) else None)
        page.goto(base)
        if wait:
            answered(page)
        yield page
        assert not [text for text in complaints if not any(part in text for part in told)]
        assert not abroad
        context.close()

    return open_page


def strange(url: str, base: str) -> bool:
    """Whether a request leaves the service; blobs are made in the page."""
    return urlsplit(url).scheme != "blob" and urlsplit(url).netloc != urlsplit(base).netloc


def setting(page: Page, key: str = "A"):
    return page.locator(f".setting.{key}")


def part(page: Page, name: str, key: str = "A"):
    return page.locator(f".setting.{key} [data-part={name}]")


def answered(page: Page, key: str = "A") -> None:
    """Wait until nothing is asked any more and the results are there."""
    expect(part(page, "classes", key).locator("li")).to_have_count(5, timeout=PATIENCE_MS)
    expect(page.locator(f".setting.{key}[aria-busy]")).to_have_count(0)
    expect(part(page, "results", key)).to_be_visible()


def choose_model(page: Page, name: str) -> None:
    page.locator("#model").select_option(label=name)
    answered(page)


def shoot(page: Page, name: str) -> None:
    """Keep an image of the whole page for people to look at."""
    SHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SHOTS / f"{name}.png", full_page=True)
