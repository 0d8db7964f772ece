"""The playground in a real Chromium, used as a person would."""

from __future__ import annotations

import base64
import io
import json
import math
import re
import subprocess
import sys
import time

import httpx
import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect

import lccl
from lccl.request import QualityRequest, resolve
from tests.conftest import SHIPPED_MODELS
from tests.playground.conftest import PHOTOGRAPHS, SHIPPED, answered, choose_model, part, setting, shoot
from tests.served import served

COVER = [76, 20, 140]


def encoded(image):
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def png(width=40, height=30, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return encoded(Image.fromarray(pixels))


def file(content, name="photo.png", kind="image/png"):
    return {"name": name, "mimeType": kind, "buffer": content}


def skipped(page, key="A"):
    """The skip ratio that the page tells, in percent."""
    return float(re.search(r"[\d.]+", part(page, "figures", key).locator("dd").first.inner_text()).group())


def slide(page, key_name, key="A"):
    part(page, "slider", key).press(key_name)
    answered(page, key)


def test_the_page_answers_about_an_image_of_its_own(visit, address):
    with visit() as page:
        expect(part(page, "classes").locator("li").first).to_contain_text("ship")
        points = httpx.get(f"{address}/v1/models/{SHIPPED}").json()["operating_points"]
        expect(page.locator(".curve .point")).to_have_count(len(points))
        expect(page.locator(".curve .mark")).to_have_count(1)
        expect(part(page, "layers").locator("label")).to_have_count(19)
        expect(part(page, "legend").locator("li")).to_have_count(5)
        expect(part(page, "macs")).to_contain_text("40.6 M")
        expect(part(page, "used")).to_contain_text("Ran with 40.0 % (between two points)")
        expect(page.locator("#status")).to_contain_text("ship")  # what a screen reader is told


EXAMPLES = {SHIPPED: ("ship", "airplane", "automobile"), PHOTOGRAPHS: ("parachute", "golf_ball", "church")}


@pytest.mark.parametrize("model", EXAMPLES)
def test_each_drawn_example_is_known_by_the_model_that_it_is_offered_for(visit, model):
    with visit() as page:
        choose_model(page, model)
        for name in EXAMPLES[model]:
            page.get_by_role("button", name=name.replace("_", " "), exact=True).click()
            expect(part(page, "classes").locator("li").first).to_contain_text(name)
        expect(page.locator(".example")).to_have_count(3)


def test_an_example_that_another_model_does_not_know_gives_way_and_an_own_image_stays(visit):
    with visit() as page:
        expect(page.locator("#chosen")).to_contain_text("ship.png")
        choose_model(page, PHOTOGRAPHS)
        expect(page.locator("#chosen")).to_contain_text("parachute.png")
        answered(page)
        page.locator("#file").set_input_files(file(png(seed=9), "mine.png"))
        expect(page.locator("#chosen")).to_contain_text("mine.png")
        choose_model(page, SHIPPED)
        expect(page.locator(".example").first).to_contain_text("ship")
        expect(page.locator("#chosen")).to_contain_text("mine.png")


def served_table():
    """Operating points of the precision that the model is served in here."""
    bundle = lccl.load(SHIPPED_MODELS / SHIPPED)
    return bundle.in_precision(lccl.compile(bundle).precision).table


def test_the_slider_answers_to_the_keyboard(visit):
    with visit() as page:
        slide(page, "End")
        least_offered, most_offered = served_table().sparsity_range
        expect(part(page, "value")).to_have_text(f"{math.floor(200 * most_offered) / 2:.1f} %")
        most = skipped(page)
        slide(page, "Home")
        expect(part(page, "value")).to_have_text("exact")
        expect(part(page, "used")).to_contain_text("Ran with exact")
        assert skipped(page) < most
        slide(page, "ArrowRight")
        expect(part(page, "value")).to_have_text(f"{math.ceil(200 * least_offered) / 2:.1f} %")


def test_a_slider_that_moves_fast_has_one_request_under_way_and_ends_with_the_last(visit):
    with visit() as page:
        under_way, most, asked = set(), [], []

        def began(request):
            if "skip-map" in request.url:
                under_way.add(request)
                most.append(len(under_way))
                asked.append(request.url)

        def ended(request):
            under_way.discard(request)

        page.on("request", began)
        page.on("requestfinished", ended)
        page.on("requestfailed", ended)
        slider = part(page, "slider")
        box = slider.bounding_box()
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        page.mouse.down()
        for step in range(60):
            page.mouse.move(box["x"] + box["width"] * step / 60, box["y"] + box["height"] / 2)
        page.mouse.up()
        answered(page)
        assert max(most) == 1
        assert len(asked) > 3  # it answers while it moves
        assert f"sparsity={slider.input_value()}" in asked[-1]
        expect(part(page, "used")).to_contain_text(part(page, "value").inner_text())


def test_an_image_that_is_slow_to_decode_does_not_take_the_place_of_a_later_one(visit):
    with visit() as page:
        page.evaluate(
            """() => {
              const decode = window.createImageBitmap, first = [500];
              window.createImageBitmap = async (...given) => {
                await new Promise((done) => setTimeout(done, first.pop() ?? 0));
                return decode(...given);
              };
            }"""
        )
        page.locator("#file").set_input_files(file(png(), "slow.png"))
        page.locator("#examples button").last.click()
        page.wait_for_timeout(800)
        expect(page.locator("#chosen")).not_to_contain_text("slow.png")


def test_a_slow_answer_does_not_overtake_the_last(visit):
    with visit() as page:

        def late(route):
            time.sleep(0.3)
            route.continue_()

        page.route("**/skip-map?sparsity=0.6&*", late)
        part(page, "slider").fill("0.6")
        part(page, "slider").fill("0.2")
        answered(page)
        expect(part(page, "used")).to_contain_text("Ran with 20.0 %")


def test_an_accuracy_budget_and_a_deadline_can_be_asked_for(visit):
    budgeted = resolve(served_table(), QualityRequest(max_accuracy_drop=2)).wanted.name
    with visit() as page:
        with page.expect_request(lambda request: "max_accuracy_drop=2" in request.url):
            page.get_by_text("Accuracy budget").click()
        answered(page)
        expect(part(page, "value")).to_have_text("2.0 points")
        expect(part(page, "used")).to_contain_text(f"Ran with {budgeted}")
        with page.expect_request(lambda request: "deadline_ms=50" in request.url):
            page.get_by_text("Deadline").click()
        slide(page, "End")
        expect(part(page, "value")).to_have_text("1000 ms")
        expect(part(page, "used")).to_contain_text("Ran with exact")


def test_early_exits_are_offered_where_the_model_has_some(visit, smooth_images):
    with visit() as page:
        choose_model(page, "early")
        expect(part(page, "figures")).to_contain_text("Answered by")
        page.locator("#file").set_input_files(file(smooth_images[0]))
        with page.expect_request(lambda request: "exit_confidence=0.9" in request.url):
            page.get_by_text("Early exits").click()
        expect(part(page, "used")).to_contain_text("exit 0 above 90 %, exit 1 above 90 %")
        slide(page, "Home")
        expect(part(page, "value")).to_have_text("50 %")
        expect(part(page, "figures")).to_contain_text("exit 0")
        expect(page.locator("#status")).to_contain_text("Answered by exit 0")
        expect(page.locator("#code")).to_contain_text("exit_confidence=0.5")
        left = skipped(page)
        part(page, "layers").get_by_text("blocks.8.conv2").click()
        expect(part(page, "shown")).to_have_text("blocks.8.conv2: 100.0 % skipped")
        slide(page, "End")
        expect(part(page, "value")).to_have_text("exact")
        expect(part(page, "figures")).to_contain_text("the end")
        assert skipped(page) < left
        shoot(page, "exits")
        choose_model(page, "small")
        expect(page.get_by_text("Early exits")).to_be_hidden()
        expect(part(page, "modes").locator("input:checked")).to_have_value("sparsity")
        expect(part(page, "figures")).not_to_contain_text("Answered by")
        expect(part(page, "figures").locator("div")).to_have_count(4)


def test_an_image_can_be_chosen_dropped_and_pasted(visit):
    with visit() as page:
        page.locator("#file").set_input_files(file(png(), "chosen.png"))
        expect(page.locator("#chosen")).to_have_text("chosen.png · 40 × 30")
        answered(page)
        content = base64.b64encode(png(20, 50, 1)).decode()
        for event, field, name in (("drop", "dataTransfer", "dropped.png"), ("paste", "clipboardData", "pasted.png")):
            page.evaluate(
                """async ([content, event, field, name]) => {
                    const bytes = Uint8Array.from(atob(content), (one) => one.charCodeAt(0));
                    const data = new DataTransfer();
                    data.items.add(new File([bytes], name, { type: "image/png" }));
                    const kind = event === "drop" ? DragEvent : ClipboardEvent;
                    document.body.dispatchEvent(new kind(event, { [field]: data, bubbles: true, cancelable: true }));
                }""",
                [content, event, field, name],
            )
            expect(page.locator("#chosen")).to_have_text(f"{name} · 20 × 50")
            answered(page)
            expect(page.locator("#code")).to_contain_text(name)


def test_a_large_image_is_made_smaller_before_it_is_sent(visit):
    with visit() as page:
        with page.expect_request("**/skip-map?*") as asked:
            page.locator("#file").set_input_files(file(encoded(Image.new("RGB", (1500, 1000), "teal"))))
        expect(page.locator("#chosen")).to_have_text("photo.png · 1500 × 1000, sent as 1280 × 853")
        assert asked.value.header_value("content-type") == "image/jpeg"
        answered(page)


def test_what_the_server_refuses_is_told_in_its_words(visit):
    with visit(told=("415", "ERR_FAILED")) as page:
        page.locator("#file").set_input_files(file(b"hello", "letter.png"))
        expect(part(page, "error")).to_have_text(re.compile("^Not an image that is read here .*[.]$"))
        expect(part(page, "results")).to_be_hidden()
        expect(page.locator(".curve .mark")).to_have_count(0)
        shoot(page, "refused")
        page.get_by_role("button", name="ship").click()
        answered(page)
        expect(part(page, "error")).to_be_hidden()
        page.route("**/skip-map?*", lambda route: route.abort())
        slide_to = part(page, "slider")
        slide_to.press("End")
        expect(part(page, "error")).to_contain_text("The server cannot be reached")
        page.unroute("**/skip-map?*")
        slide_to.press("Home")
        answered(page)


def test_the_cover_lies_where_the_masks_say(visit, address):
    with visit() as page:
        content = png(32, 32, 7)
        page.locator("#file").set_input_files(file(content))
        page.locator("#opacity").fill("100")
        slide(page, "Home")
        part(page, "layers").get_by_text("blocks.1.conv2").click()
        answered(page)
        expect(part(page, "stage")).to_have_attribute("aria-label", re.compile("blocks.1.conv2: .* % skipped"))
        answer = httpx.post(
            f"{address}/v1/models/{SHIPPED}/skip-map",
            content=content, headers={"Content-Type": "image/png"},
            params={"sparsity": part(page, "slider").input_value(), "layer": "blocks.1.conv2"},
        ).json()  # fmt: skip
        (rows,) = answer["layers"][0]["mask"]
        pixels = page.evaluate(
            """() => {
                const canvas = document.querySelector(".stage canvas"), step = canvas.width / 32;
                const context = canvas.getContext("2d"), found = [];
                for (let y = 0; y < 32; y++) for (let x = 0; x < 32; x++)
                    found.push([...context.getImageData((x + 0.5) * step, (y + 0.5) * step, 1, 1).data.slice(0, 3)]);
                return found;
            }"""
        )
        shown = np.asarray(Image.open(io.BytesIO(content))).reshape(-1, 3)
        for pixel, kept, seen in zip(pixels, "".join(rows), shown, strict=True):
            assert pixel == (seen.tolist() if kept == "1" else COVER)
        assert "0" in "".join(rows)
        assert "1" in "".join(rows)


def test_layers_are_chosen_with_the_arrow_keys(visit):
    with visit() as page:
        first = part(page, "layers").locator("input").first
        first.focus()
        first.press("ArrowRight")
        expect(part(page, "shown")).to_contain_text("blocks.0.conv1")
        expect(part(page, "layers").locator("input:checked")).to_have_value("blocks.0.conv1")


def test_two_settings_are_compared(visit):
    with visit() as page:
        page.get_by_role("button", name="Compare two settings").click()
        answered(page, "B")
        assert skipped(page, "B") > skipped(page, "A")
        expect(page.locator(".curve .mark")).to_have_count(2)
        expect(page.locator("#difference")).to_contain_text(re.compile("B skips .* points more than A"))
        part(page, "layers", "B").get_by_text("blocks.0.conv1").click()
        expect(part(page, "shown", "A")).to_contain_text("blocks.0.conv1")
        page.locator("#whose").get_by_text("B").click()
        expect(page.locator("#code")).to_contain_text("sparsity=0.6")
        slide(page, "Home", "B")
        expect(page.locator("#difference")).to_contain_text(re.compile("B skips .* points less than A"))
        page.get_by_role("button", name="Compare two settings").click()
        expect(setting(page, "B")).to_have_count(0)
        expect(page.locator("#difference")).to_be_hidden()
        expect(page.locator("#code")).to_contain_text("sparsity=0.4")


def test_a_point_of_the_curve_can_be_taken(visit):
    with visit() as page:
        points = served_table().points
        number = [point.name for point in points].index("p45")
        page.locator(".curve .point").nth(number).locator(".target").click()
        answered(page)
        nearest = round(200 * points[number].skip_ratio) / 2  # the slider goes in steps of half a percent
        expect(part(page, "value")).to_have_text(f"{nearest:.1f} %")


def test_the_copied_requests_run_and_get_the_same_answer(visit, tmp_path):
    name, codes = """it's "$HOME" `é`.png""", {}
    with visit() as page:
        page.locator("#file").set_input_files(file(png(seed=9), name))
        answered(page)
        for language in ("curl", "Python"):
            page.locator("#language").get_by_text(language).click()
            page.get_by_role("button", name="Copy", exact=True).click()  # it is called Copied for a while
            expect(page.get_by_role("button", name="Copied")).to_be_visible()
            codes[language] = page.evaluate("navigator.clipboard.readText()")
        best = part(page, "classes").locator("li").first.inner_text()
    (tmp_path / name).write_bytes(png(seed=9))
    for command in (["bash", "-c", codes["curl"]], [sys.executable, "-c", codes["Python"]]):
        run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
        answer = json.loads(run.stdout)
        assert answer["operating_point"]["sparsity"] == 0.4
        found = answer["predictions"][0]["classes"][0]
        assert best.split() == [found["label"], f"{100 * found['probability']:.1f}", "%"]


def test_the_drawn_example_can_be_saved_for_the_copied_request(visit):
    with visit() as page:
        with page.expect_download() as saved:
            page.get_by_role("link", name="Save").click()
        assert saved.value.suggested_filename == "ship.png"
        with Image.open(saved.value.path()) as image:
            assert image.size == (256, 256)


def test_a_key_is_asked_for_and_used(visit):
    with (
        served("--models", str(SHIPPED_MODELS), "--api-key", "s3cret") as guarded,
        visit(guarded, wait=False, told=("401",)) as page,
    ):
        page.get_by_label("API key").fill("wrong")
        page.get_by_role("button", name="Use this key").click()
        expect(page.locator("#page-error")).not_to_be_empty()
        page.get_by_label("API key").fill("s3cret")
        page.get_by_role("button", name="Use this key").click()
        answered(page)
        expect(page.locator("#key-form")).to_be_hidden()
        expect(page.locator("#code")).to_contain_text("Bearer $LCCL_API_KEY")
        assert "s3cret" not in page.locator("#code").inner_text()
