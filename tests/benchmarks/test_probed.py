"""The services that benchmarks look into start, and tell what is asked of them."""

import httpx
import pytest

from benchmarks import cost_probe, loop_probe
from benchmarks.server import Server


@pytest.mark.parametrize(
    ("probe", "told"), [(cost_probe, {"loop", "process", "threads"}), (loop_probe, {"gap_ms", "work_ms"})]
)
def test_a_probed_service_starts_and_tells(probe, told):
    with Server(f"tests-{probe.__name__}", program=("-m", probe.__name__)) as server:
        answer = httpx.get(server.base + probe.PATH, timeout=10)
    assert answer.status_code == 200
    assert told <= answer.json().keys()
