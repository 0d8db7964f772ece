"""Take the image of the playground that its documentation shows: ``python -m tests.playground.image``."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

from tests.playground.conftest import CHROMIUM, FLAGS, answered, part
from tests.served import served

PLACE = Path(__file__).parents[2] / "docs" / "playground.png"


def main() -> None:
    with served() as base, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(viewport={"width": 1180, "height": 800}, color_scheme="light")
        page.goto(base)
        answered(page)
        for sparsity in ("0.14", "0.15"):  # the first answer's times are those of a browser that starts
            part(page, "slider").fill(sparsity)
            page.wait_for_timeout(300)
        answered(page)
        shot = page.screenshot(full_page=True)
        browser.close()
    Image.open(io.BytesIO(shot)).quantize(192, dither=Image.Dither.NONE).save(PLACE, optimize=True)
    print(f"{PLACE}: {PLACE.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
