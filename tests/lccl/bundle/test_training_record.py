"""The training record reads what any version wrote, keeps what it does not know, and writes the same keys."""

import json
from pathlib import Path

import pytest

from lccl.bundle.training_record import EarlierRecord, TeacherRecord, TrainingRecord, TwinRecord

SHIPPED = Path(__file__).parents[3] / "models" / "resnet20-cifar10" / "bundle.json"
TWIN = {"digest": "ab", "accuracy": 0.9, "accuracy_interval": [0.88, 0.92]}


def test_the_shipped_models_record_is_written_as_it_was_read():
    stored = json.loads(SHIPPED.read_text())["training"]
    record = TrainingRecord.from_json(stored)
    assert json.dumps(record.to_json(), sort_keys=True) == json.dumps(stored, sort_keys=True)
    assert record.total_epochs == 52
    assert [answer.after for answer in record.sidenets.answers] == [2, 5, 6, 7, None]


def test_a_key_that_older_bundles_have_is_read_under_its_new_name():
    twin = TrainingRecord.from_json({"plain_twin": TWIN | {"may_know_the_pictures": True}}).plain_twin
    assert twin.may_know_the_images is True
    assert twin.to_json() == TWIN | {"may_know_the_images": True}


def test_what_is_not_known_is_kept():
    stored = {"plain_twin": TWIN | {"later": [1]}, "sweep": {"seed": 3}, "teacher": {"digest": "cd", "accuracy": 0.5}}
    record = TrainingRecord.from_json(stored)
    assert record.teacher == TeacherRecord("cd", 0.5)
    assert record.plain_twin == TwinRecord("ab", 0.9, (0.88, 0.92), more={"later": [1]})
    assert record.to_json() == stored


def test_a_network_that_was_never_trained_has_an_empty_record():
    assert TrainingRecord.from_json({}) == TrainingRecord()
    assert TrainingRecord().to_json() == {}
    assert TrainingRecord().total_epochs == 0


def test_epochs_of_earlier_runs_are_counted():
    first = TrainingRecord(epochs=({},) * 3)
    assert TrainingRecord(epochs=({},), earlier=EarlierRecord("1", first)).total_epochs == 4


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        ([], "no object"),
        ({"plain_twin": {"digest": "ab"}}, "accuracy"),
        ({"plain_twin": TWIN | {"accuracy_interval": [0.9]}}, "needs 2 values"),
        ({"epochs": 8}, "epochs is 8"),
        ({"earlier": {"digest": "1", "training": {"test": 0.9}}}, "no object"),
    ],
)
def test_a_record_that_is_not_readable_is_refused(stored, message):
    with pytest.raises(TypeError, match=message):
        TrainingRecord.from_json(stored)
