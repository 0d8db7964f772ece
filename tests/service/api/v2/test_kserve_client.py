"""The Open Inference Protocol as KServe's REST client speaks it, unchanged and in an environment of its own.

That client pins versions of what the service uses, so the two are not installed together: see ``make test-kserve``.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.service.api.kserve import ask_kserve

pytestmark = pytest.mark.kserve


@pytest.fixture(scope="module")
def found(client, draw_image):
    """What KServe's client got, and one of the images it sent."""
    return ask_kserve(Path(__file__).with_name("kserve_client.py"), draw_image(seed=3), url=str(client.base_url))


def test_health(found):
    assert (found["live"], found["ready"], found["model ready"], found["nobody ready"]) == (True, True, True, False)


def test_every_form_is_answered_alike(found, client, draw_image):
    best = client.post("/v1/classify", content=draw_image(seed=3)).json()["predictions"][0]["classes"][0]
    assert len(found["answers"]) == 6
    for answer in found["answers"].values():
        assert (answer["id"], answer["model"]) == ("a-7", "small")
        assert list(answer["outputs"]) == ["logits", "probabilities", "index", "label", "skip_ratio", "macs"]
        assert np.shape(answer["outputs"]["logits"]) == (1, 10)
    for form in ("image json", "image binary", "pixels json", "pixels binary"):
        outputs = found["answers"][form]["outputs"]
        assert (outputs["index"], outputs["label"]) == ([best["index"]], [best["label"]])
        assert outputs["probabilities"][0][best["index"]] == pytest.approx(best["probability"], rel=1e-3)
    one, other = (found["answers"][f"normalised {form}"]["outputs"] for form in ("json", "binary"))
    assert one["index"] == other["index"]


def test_binary_and_classified_outputs(found):
    outputs = found["binary outputs"]["outputs"]
    assert list(outputs) == ["probabilities", "label", "macs"]
    assert outputs["probabilities"] == found["answers"]["image json"]["outputs"]["probabilities"]
    (best,) = found["classified"]["outputs"]["probabilities"]
    assert len(best) == 3
    assert best[0].endswith(f":{outputs['label'][0]}")


def test_wishes(found):
    for way in ("by parameter", "by header"):
        assert found[way]["parameters"]["operating_point"] == "p40"


def test_errors_are_the_clients_exceptions_with_the_servers_text(found):
    status, text = found["unknown model"]
    assert status == 404
    assert "no model 'nobody' is served here" in text
    status, text = found["bad wish"]
    assert status == 422
    assert "0.100 to 0.600" in text
