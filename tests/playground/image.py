"""Take what the documentation shows of the playground: a picture of it, and the first example that it draws.

python -m tests.playground.image
"""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

from tests.playground.conftest import CHROMIUM, FLAGS, answered, part
from tests.served import served

DOCS = Path(__file__).parents[2] / "docs"


def main() -> None:
    with served() as base, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(viewport={"width": 1180, "height": 800}, color_scheme="light")
        page.goto(base)
        answered(page)
        with page.expect_download() as saved:
            page.get_by_role("link", name="Save").click()
        example = Image.open(saved.value.path()).convert("RGB")
        for sparsity in ("0.49", "0.5"):  # the first answer's times are those of a browser that starts
            part(page, "slider").fill(sparsity)
            page.wait_for_timeout(300)
        answered(page)
        shot = page.screenshot(full_page=True)
        browser.close()
    picture = Image.open(io.BytesIO(shot)).quantize(192, dither=Image.Dither.NONE)
    for image, name in ((picture, "playground.png"), (example, "example.png")):
        image.save(DOCS / name, optimize=True)
        print(f"{DOCS / name}: {(DOCS / name).stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
