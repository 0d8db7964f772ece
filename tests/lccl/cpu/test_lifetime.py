"""Engines under several Python threads, at their end, and in forked processes."""

from __future__ import annotations

import gc
import os
import select
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from lccl.networks import Architecture

ARITHMETIC = ("portable", "fp32")
REFUSAL = "RuntimeError: this engine's threads stayed in the process that made it"


@pytest.fixture(scope="module")
def plan(gated_network, make_reference, draw_images):
    pixels = draw_images(4, 13)
    network = gated_network(Architecture("resnet20"), pixels, np.zeros((4, 18)))
    return make_reference(network, size=13).plan


@pytest.fixture
def batches(draw_images, rows):
    """Batches of 1 to 6 images, each with thresholds of its own."""
    random = np.random.default_rng(0)
    return [(draw_images(count, 13, seed=count), rows(random.uniform(0, 0.4, (count, 18)))) for count in range(1, 7)]


@pytest.mark.parametrize("sharing", [False, True])
@pytest.mark.parametrize("engines", [1, 2])
def test_python_threads_get_what_they_would_get_alone(engines, sharing, plan, make_cpu, batches):
    made = [make_cpu(plan, ARITHMETIC, threads=3, cache_bytes=0, streams=2) for _ in range(engines)]
    alone = [made[0].run(*batch).logits for batch in batches]
    start = threading.Barrier(4)

    def run(number):
        start.wait(timeout=10)
        chosen = [(number + turn) % len(batches) for turn in range(12)]
        return [
            np.array_equal(made[number % engines].run(*batches[one], sharing=sharing and number < 3).logits, alone[one])
            for one in chosen
        ]

    with ThreadPoolExecutor(4) as pool:
        assert all(all(equal) for equal in pool.map(run, range(4)))


@pytest.mark.parametrize("cache_bytes", [None, 0])
def test_streams_run_at_once_and_one_by_one_with_the_same_bits(cache_bytes, plan, make_cpu, batches):
    whole = make_cpu(plan, ARITHMETIC, threads=4, cache_bytes=cache_bytes)
    engine = make_cpu(plan, ARITHMETIC, threads=4, cache_bytes=cache_bytes, streams=2)
    assert (whole.streams, engine.streams) == (1, 2)
    for batch in batches:
        expected = whole.run(*batch)
        for output in (engine.run(*batch), engine.run(*batch, sharing=True), whole.run(*batch, sharing=True)):
            assert np.array_equal(output.logits, expected.logits)
            assert np.array_equal(output.kept, expected.kept)


def test_a_short_call_that_shares_does_not_wait_for_a_long_one(plan, make_cpu, draw_images, rows):
    engine, order = make_cpu(plan, ARITHMETIC, threads=2, streams=2), []
    begun = threading.Event()

    def run(count):
        images, options = draw_images(count, 13), rows(np.zeros((count, 18)))
        begun.set()
        engine.run(images, options, sharing=True)
        order.append(count)

    long = threading.Thread(target=run, args=(200,))
    long.start()
    begun.wait(10)
    run(1)
    long.join()
    assert order == [1, 200]


def test_there_are_no_more_streams_than_threads(plan, make_cpu):
    assert make_cpu(plan, ARITHMETIC, threads=2, streams=8).streams == 2


def test_a_long_run_lets_other_python_threads_work(plan, make_cpu, draw_images, rows):
    engine, done, turns = make_cpu(plan, ARITHMETIC), threading.Event(), 0

    def run():
        engine.run(draw_images(40, 13), rows(np.zeros((40, 18))))
        done.set()

    thread = threading.Thread(target=run)
    thread.start()
    while not done.wait(0.001):
        turns += 1
    thread.join()
    assert turns > 1


def test_engines_end_all_their_threads(plan, make_cpu, batches):
    gc.collect()
    before = threads()
    for turn in range(25):
        engine = make_cpu(plan, ARITHMETIC, threads=1 + turn % 4, streams=1 + turn % 3)
        if turn % 2:
            engine.run(*batches[turn % 6])
        del engine
    gc.collect()
    assert threads() == before


def threads():
    return len(os.listdir("/proc/self/task"))


def in_a_child(act, seconds=60):
    """What a forked child's ``act()`` returns or raises, as text; fails where the child hangs or dies."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.write(write, str(act()).encode())
        except Exception as error:
            os.write(write, f"{type(error).__name__}: {error}".encode())
        finally:
            os._exit(0)
    os.close(write)
    try:
        ready, _, _ = select.select([read], [], [], seconds)
        text = os.read(read, 1000).decode() if ready else "hung"
    finally:
        os.close(read)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    return text


forks = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


@forks
@pytest.mark.parametrize("count", [1, 3])
def test_a_forked_child_is_told_to_make_its_own(count, plan, make_cpu, batches):
    engine = make_cpu(plan, ARITHMETIC, threads=count)
    expected = engine.run(*batches[3]).logits
    assert in_a_child(lambda: engine.run(*batches[3])).startswith(REFUSAL)
    images, options = batches[3]
    values = {plan.image.name: np.zeros((len(images), 3, 13, 13), np.float32)}
    assert in_a_child(lambda: engine.run_step(1, values, options)).startswith(REFUSAL)
    fresh = in_a_child(lambda: np.array_equal(make_cpu(plan, ARITHMETIC, count).run(*batches[3]).logits, expected))
    assert fresh == "True"
    assert np.array_equal(engine.run(*batches[3]).logits, expected)


@forks
def test_a_child_forked_during_a_run_is_told_so_too(plan, make_cpu, draw_images, rows, batches):
    engine, stop = make_cpu(plan, ARITHMETIC, threads=2), threading.Event()
    images, options = draw_images(60, 13), rows(np.zeros((60, 18)))

    def run():
        while not stop.is_set():
            engine.run(images, options)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        texts = [in_a_child(lambda: engine.run(*batches[3])) for _ in range(3)]
    finally:
        stop.set()
        thread.join()
    assert all(text.startswith(REFUSAL) for text in texts), texts


@forks
def test_a_forked_child_can_drop_an_engine(plan, make_cpu, batches):
    held = [make_cpu(plan, ARITHMETIC, threads=3)]
    held[0].run(*batches[3])

    def drop():
        held.clear()
        gc.collect()
        return "dropped"

    assert in_a_child(drop) == "dropped"
    assert held
