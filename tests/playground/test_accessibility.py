"""The playground for everyone: axe-core's rules, the keyboard alone, phones, dark schemes, and less motion."""

from __future__ import annotations

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from tests.playground.conftest import answered, choose_model, part, shoot

SERIOUS = {"serious", "critical"}


def faults(page):
    """What axe-core finds serious, rule by rule, with the elements."""
    found = Axe().run(page).response["violations"]
    return {one["id"]: [node["html"] for node in one["nodes"]] for one in found if one["impact"] in SERIOUS}


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (360, True)], ids=["desktop-light", "phone-dark"])
def test_axe_finds_no_serious_fault_alone_and_in_a_comparison(visit, width, dark):
    with visit(dark=dark, width=width) as page:
        assert faults(page) == {}
        shoot(page, f"{'phone' if width == 360 else 'desktop'}-{'dark' if dark else 'light'}")
        page.set_viewport_size({"width": 1280, "height": 900})
        page.get_by_text("as a table").click()
        page.get_by_role("button", name="Compare two settings").click()
        answered(page, "B")
        assert faults(page) == {}
        shoot(page, f"compared-{'dark' if dark else 'light'}")


def test_axe_finds_no_serious_fault_beside_early_exits_on_a_phone(visit):
    with visit(width=360) as page:
        choose_model(page, "early")
        page.get_by_text("Early exits").click()
        answered(page)
        assert faults(page) == {}
        assert page.evaluate("document.scrollingElement.scrollWidth") <= 360
        shoot(page, "exits-phone")


def test_the_mode_for_early_exits_is_reached_with_the_arrow_keys(visit):
    with visit() as page:
        choose_model(page, "early")
        modes = part(page, "modes").locator("input")
        modes.first.focus()
        modes.first.press("ArrowLeft")
        expect(part(page, "modes").locator("input:checked")).to_have_value("exit_confidence")


def test_axe_finds_no_serious_fault_in_errors_and_one_where_there_is_one(visit):
    with visit(told=("415",)) as page:
        page.locator("#file").set_input_files({"name": "a.png", "mimeType": "image/png", "buffer": b"hello"})
        expect(part(page, "error")).to_be_visible()
        assert faults(page) == {}
        page.locator("#model").evaluate("(select) => select.parentElement.replaceWith(select)")
        assert "select-name" in faults(page)


def test_everything_can_be_reached_with_the_keyboard_in_order(visit):
    with visit() as page:
        reached = []
        for _ in range(60):
            page.keyboard.press("Tab")
            reached.append(
                page.evaluate(
                    """() => {
                        const one = document.activeElement;
                        return one.id || one.name || one.dataset.part || one.textContent.trim() || one.tagName;
                    }"""
                )
            )
            if reached[-1] == "code":
                break
        expected = [
            "To the settings", "model", "API", "Metrics", "ship", "airplane", "automobile", "file", "save", "opacity",
            "compare", "mode-A", "slider", "layer-A", "points", "language", "copy", "code",
        ]  # fmt: skip
        ordered = [one for one in reached if one in expected]
        assert ordered == [one for one in expected if one != "points"]  # its table is folded up


def test_focus_can_be_seen(visit):
    with visit() as page:
        for selector in ("#compare", "#copy", ".example"):
            page.locator(selector).first.focus()
            page.keyboard.press("Shift+Tab")
            page.keyboard.press("Tab")
            outline = page.locator(selector).first.evaluate("(one) => getComputedStyle(one).outlineStyle")
            assert outline == "solid"


def test_nothing_is_wider_than_the_screen(visit):
    with visit() as page:
        for compared in (False, True):
            if compared:
                page.get_by_role("button", name="Compare two settings").click()
                answered(page, "B")
            for width in (320, 360, 768, 1280):
                page.set_viewport_size({"width": width, "height": 900})
                assert page.evaluate("document.scrollingElement.scrollWidth") <= width


def test_a_dark_scheme_and_less_motion_are_respected(visit):
    def brightness(page):
        colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
        return sum(int(part) for part in colour[4:-1].split(","))

    def transition(page):
        return page.locator(".filled").first.evaluate("(one) => getComputedStyle(one).transitionDuration")

    with visit() as usual, visit(dark=True, reduced_motion="reduce") as other:
        assert brightness(other) < 150
        assert brightness(usual) > 600
        assert transition(usual) != "0s"
        assert transition(other) == "0s"
