"""Where nobody sits before a terminal, a run says a line a minute; TensorBoard is an extra."""

import sys

import pytest

from lccl.cli import terminal
from lccl.errors import LcclError


class Clock:
    def __init__(self):
        self.now = 1000.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(terminal, "time", clock)
    return clock


def test_training_says_a_line_a_minute_and_one_for_each_epoch(clock, capsys):
    with terminal.training_progress() as report:
        for step in range(1, 13):
            clock.now += 20
            report("step", step, 40, {"loss": 1.5, "lr": 0.1})
        report("epoch", 1, 4, {"loss": 1.25, "accuracy": 0.5})
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines] == ["step 1/40", "step 4/40", "step 7/40", "step 10/40", "epoch 1/4"]
    assert lines[1] == "step 4/40  loss 1.500  about 0:12:00 left"
    assert lines[-1] == "epoch 1/4  loss 1.250  accuracy 0.500"


def test_a_search_and_a_measuring_pass_say_how_far_they_are(clock, capsys):
    with terminal.training_progress() as report:
        for kind, of in (("search", 0), ("measure", 4000)):
            for done in (1, 2, 3, 4):
                clock.now += 30
                report(kind, 1000 * done if of else done, of, {})
    assert capsys.readouterr().out.splitlines() == [
        "searching the curve: 1 moves", "searching the curve: 3 moves",
        "measuring: 1,000 of 4,000 images", "measuring: 3,000 of 4,000 images",
    ]  # fmt: skip


def test_other_work_says_how_far_it_is(clock, capsys):
    with terminal.working("reading photos") as update:
        for count in range(1, 9):
            clock.now += 15
            update(f"reading photos: {count} of 8")
    with terminal.counting("images", 100) as advance:
        for _ in range(10):
            clock.now += 30
            advance(10)
    assert capsys.readouterr().out.splitlines() == [
        "reading photos", "reading photos: 4 of 8", "reading photos: 8 of 8",
        "images: 10 of 100", "images: 30 of 100", "images: 50 of 100", "images: 70 of 100", "images: 90 of 100",
    ]  # fmt: skip


def test_tensorboard_that_is_not_installed_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(LcclError, match=r"pip install 'lccl\[tensorboard\]'"), terminal.training_progress(tmp_path):
        pass


@pytest.mark.filterwarnings("ignore")  # TensorBoard's own
def test_tensorboard_gets_every_tenth_step_and_every_epoch(tmp_path):
    pytest.importorskip("tensorboard", reason="TensorBoard is an extra")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with terminal.training_progress(tmp_path) as report:
        for step in range(1, 31):
            report("step", step, 30, {"loss": 1 / step})
        report("epoch", 1, 1, {"accuracy": 0.5})
    written = EventAccumulator(str(tmp_path)).Reload()
    assert [event.step for event in written.Scalars("step/loss")] == [10, 20, 30]
    assert [event.value for event in written.Scalars("epoch/accuracy")] == [0.5]


def test_skipped_files_are_named_and_counted(capsys):
    from lccl.data import Dataset

    def said(count):
        terminal.say_skipped(
            Dataset(None, None, (), tuple(f"train/[a]/{number}.jpg (broken)" for number in range(count)))
        )
        return capsys.readouterr().out

    assert said(0) == ""
    assert "1 file was skipped" in said(1)
    assert "train/[a]/0.jpg (broken)" in said(1)
    assert "1,007 files were skipped" in said(1007)
    assert "and 1,002 more" in said(1007)
