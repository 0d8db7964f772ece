"""A call's own timeout (``grpc-timeout``) chooses its quality, or limits its time where it has a target."""

from __future__ import annotations

import math
from contextlib import contextmanager

import grpc
import pytest

from lccl.request import QualityRequest
from service.api.grpc.infer import in_time
from service.inference.cost import CostModel
from service.inference.self_test import warm_up
from tests.service.api.grpc.conftest import ask, connected, refused
from tests.service.engines import Slow
from tests.service.refusals import refused as refused_here


@contextmanager
def slowed(serve, seconds):
    """A server on a device that takes 0.9, 0.75, 0.6 and 0.4 times so long for an image at its points, and knows it."""
    with serve(compute_streams=1, self_test_interval_s=600, grpc_port=0) as client, connected(client) as rpc:
        model, cost = client.app.state.registry.find("small"), client.app.state.runner._cost
        assert isinstance(cost, CostModel)
        model.engine = Slow(model.engine, seconds)
        model.engine.batch_limit = 1
        cost.forget(model.key)
        warm_up(model, cost)
        model.engine.batches.clear()
        yield rpc, model.engine


def point(answer):
    return answer.parameters["operating_point"].string_param


def test_with_time_enough_a_timeout_gets_exact(rpc, draw_image):
    assert point(rpc.ModelInfer(ask([draw_image()]), timeout=8)) == "exact"
    assert point(rpc.ModelInfer(ask([draw_image()]))) == "exact"


def test_alone_it_gets_the_least_sparse_point_that_fits_and_beside_a_target_it_is_a_limit(serve, draw_image):
    image = [draw_image()]
    with slowed(serve, 1.0) as (rpc, engine):  # 900 ms, 750, 600 and 400 for the four points
        for seconds, expected in ((1.3, "exact"), (0.86, "p25"), (0.71, "p40"), (0.53, "p60")):
            assert point(rpc.ModelInfer(ask(image), timeout=seconds)) == expected
        # a floor bounds it
        assert point(rpc.ModelInfer(ask(image, max_accuracy_drop=9), timeout=0.71)) == "p40"
        # a target is kept, or refused before it costs compute; with a floor it gives way as far as that
        engine.batches.clear()
        with refused("DEADLINE_EXCEEDED", "deadline"):
            rpc.ModelInfer(ask(image, operating_point="exact"), timeout=0.71)
        with refused("DEADLINE_EXCEEDED", "deadline"):
            rpc.ModelInfer(ask(image, max_accuracy_drop=3), timeout=0.6)
        assert not engine.batches
        assert point(rpc.ModelInfer(ask(image, operating_point="p60"), timeout=2)) == "p60"
        answer = rpc.ModelInfer(ask(image, operating_point="exact", max_accuracy_drop=9), timeout=0.71)
        assert point(answer) == "p40"
        assert answer.parameters["downgraded"].bool_param


def test_a_timeout_that_cannot_be_met_is_answered_before_it_passes(serve, draw_image):
    with slowed(serve, 1.0) as (rpc, engine):
        rpc.ModelInfer(ask([draw_image()], operating_point="p60"))  # which takes 400 ms
        engine.batches.clear()
        with refused("DEADLINE_EXCEEDED", "deadline"):
            rpc.ModelInfer(ask([draw_image()]), timeout=0.3)
        assert not engine.batches


def test_a_timeout_that_passed_on_the_way_is_the_clients_own_status(rpc, draw_image):
    with pytest.raises(grpc.RpcError) as error:
        rpc.ModelInfer(ask([draw_image()]), timeout=1e-6)
    assert error.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


@pytest.mark.parametrize("target", [{"sparsity": 0.2}, {"operating_point": "p25"}, {"deadline_ms": 40.0}])
def test_beside_a_target_it_changes_the_limit_alone(target):
    quality = QualityRequest(**target)
    assert in_time(quality, math.inf, 1.0) == (quality, 0.995)
    assert in_time(quality, 0.5, 1.0) == (quality, 0.5)


def test_alone_or_with_a_floor_it_is_a_deadline():
    floor = QualityRequest(max_accuracy_drop=1.0)
    for quality in (QualityRequest(), floor):
        timed, limit_s = in_time(quality, math.inf, 0.01)
        assert timed.deadline_ms is not None
        assert timed.max_accuracy_drop == quality.max_accuracy_drop
        assert limit_s == pytest.approx(0.009)
        assert in_time(quality, math.inf, math.inf) == (quality, math.inf)
    with refused_here("deadline"):
        in_time(floor, math.inf, 0.0)
