"""Classifying a folder: the engine's own answers, going on after an interruption, and broken files as rows."""

from __future__ import annotations

import csv
import json
import shutil
import tarfile

import numpy as np
import pytest

import lccl as library
from lccl.classify import answers, job
from lccl.classify.answers import AnswerFile
from lccl.data.images import MAX_PIXELS
from tests.lccl.cli.commands import failed, lccl, succeeded

COUNT = 75
BROKEN = "b/broken é.png"
POINTS = ["exact", "p25", "p40", "p60"]


@pytest.fixture(scope="module")
def images(tmp_path_factory, draw_image):
    """Images of many forms in two folders, a broken one among them."""
    folder = tmp_path_factory.mktemp("images")
    kinds = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "AVIF")
    for number in range(COUNT - 1):
        kind = kinds[number % len(kinds)]
        file = folder / "ab"[number % 2] / f"{number:03}.{kind.lower()}"
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(draw_image(kind, size=(40 + number % 7, 33), seed=number))
    (folder / BROKEN).write_bytes(b"no image")
    (folder / "notes.txt").write_text("no image either")
    return folder


@pytest.fixture(scope="module")
def bundle(models_folder):
    return models_folder / "small"


@pytest.fixture
def command(images, bundle, tmp_path):
    """Runs the command on these images: ``command("--sparsity", 0.3, out="answers.csv")``."""

    def run(*options, out="answers.csv", given=images):
        return lccl(
            "classify", given, "--bundle", bundle, "--out", tmp_path / out, "--threads", 1, "--engine", "cpu", *options
        )

    return run


def rows(file):
    with file.open(encoding="utf-8", newline="") as content:
        return list(csv.DictReader(content))


def names(folder):
    return sorted(
        (file.relative_to(folder).as_posix() for file in folder.rglob("*.*") if file.suffix != ".txt"),
        key=lambda name: name.split("/"),
    )


@pytest.fixture
def interrupting(monkeypatch):
    """``interrupting(3)``: the third batch is interrupted, once."""

    def interrupt(number, error=KeyboardInterrupt):
        answer, batches = job._answer, []

        def answer_or_not(*given):
            batches.append(1)
            if len(batches) == number:
                raise error
            return answer(*given)

        monkeypatch.setattr(job, "_answer", answer_or_not)

    return interrupt


def test_rows_are_what_the_engine_says_of_what_serving_decodes(command, images, bundle, tmp_path):
    output = succeeded(command())
    loaded = library.load(bundle)
    engine = library.compile(loaded, engine="cpu", threads=1)
    written = rows(tmp_path / "answers.csv")
    assert [row["file"] for row in written] == names(images)
    good = [row for row in written if not row["error"]]
    pixels = [loaded.preprocessing.decode((images / row["file"]).read_bytes(), MAX_PIXELS) for row in good]
    exact = loaded.table.exact
    out = engine.run(np.stack(pixels), library.RunOptions.of([exact.setting] * len(good)))
    assert [row["label"] for row in good] == [loaded.labels[index] for index in out.logits.argmax(1)]
    powers = np.exp(out.logits.astype(np.float64))
    assert [float(row["probability"]) for row in good] == pytest.approx((powers / powers.sum(1, keepdims=True)).max(1))
    assert [float(row["skip_ratio"]) for row in good] == engine.shape.skip_ratio(out.kept).tolist()
    assert {(row["operating_point"], float(row["sparsity"])) for row in good} == {("exact", exact.skip_ratio)}
    (broken,) = [row for row in written if row["error"]]
    assert (broken["file"], broken["label"], broken["operating_point"]) == (BROKEN, "", "")
    assert "not an image" in broken["error"]
    assert f"1 of {COUNT} files have an error" in output
    assert BROKEN in output
    assert [file.name for file in tmp_path.iterdir()] == ["answers.csv"]


@pytest.mark.parametrize(
    ("options", "point"),
    [
        (("--operating-point", "p40"), "p40"),
        (("--sparsity", 0.3), "interpolated"),
        (("--max-accuracy-drop", 3), "p25"),
        (("--finish-in", "1h"), "exact"),
        (("--finish-in", "1s", "--max-accuracy-drop", 3), None),
    ],
)
def test_the_point_is_chosen_and_named(command, tmp_path, options, point):
    output = succeeded(command(*options))
    used = {row["operating_point"] for row in rows(tmp_path / "answers.csv")} - {""}
    assert used == {point} if point else used <= {"exact", "p25"}
    assert all(name in output for name in used)


def test_too_short_a_time_goes_to_the_floor_and_not_past_it(command, tmp_path, monkeypatch):
    monkeypatch.setattr("lccl.cli.classify._seconds", lambda _: 1e-6)
    output = succeeded(command("--finish-in", "1s", "--max-accuracy-drop", 9))
    used = [row["operating_point"] for row in rows(tmp_path / "answers.csv") if not row["error"]]
    assert used == ["exact"] * used.count("exact") + ["p40"] * used.count("p40")  # the first few are a measurement
    assert used.count("exact") <= job.FIRST
    assert "longer than asked" in output


@pytest.mark.parametrize("end", [".csv", ".parquet"])
def test_an_interrupted_job_goes_on_and_is_as_if_it_had_not_been(
    command, tmp_path, images, interrupting, end, monkeypatch
):
    if end == ".parquet":
        pytest.importorskip("pyarrow", reason="pyarrow is of the extra test")
    succeeded(command(out=f"whole{end}"))
    interrupting(2)
    assert command(out=f"answers{end}").exit_code == 130
    part = tmp_path / f"answers{end}.part"
    done = json.loads((tmp_path / f"{part.name}.json").read_text())["progress"]["rows"]
    assert 0 < done < COUNT
    assert not (tmp_path / f"answers{end}").exists()
    with part.open("a") as torn:  # written by a process that was killed before it counted
        torn.write('a/014.webp,class3,0.4\nb/"')
    reads, read = [], job._read
    monkeypatch.setattr(job, "_read", lambda files, how, number: reads.append(number) or read(files, how, number))
    output = succeeded(command(out=f"answers{end}"))
    assert f"going on after {done} of {COUNT} images" in output
    assert sorted(reads) == list(range(done, COUNT))
    assert (tmp_path / f"answers{end}").read_bytes() == (tmp_path / f"whole{end}").read_bytes()
    assert sorted(file.name for file in tmp_path.iterdir()) == [f"answers{end}", f"whole{end}"]


def test_parquet_has_types(command, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is of the extra test")
    succeeded(command(out="answers.parquet"))
    succeeded(command(out="answers.csv"))
    table = parquet.read_table(tmp_path / "answers.parquet")
    assert table.column_names == list(answers.COLUMNS)
    written = rows(tmp_path / "answers.csv")
    for read, row in zip(table.to_pylist(), written, strict=True):
        assert read["file"] == row["file"]
        assert read["macs"] == (int(row["macs"]) if row["macs"] else None)
        assert read["probability"] == (float(row["probability"]) if row["probability"] else None)


def test_an_archive_is_read_in_its_order(command, images, tmp_path):
    with tarfile.open(tmp_path / "images.tar.gz", "w:gz") as archive:
        archive.add(images / "b", "b")
    succeeded(command(given=tmp_path / "images.tar.gz"))
    written = rows(tmp_path / "answers.csv")
    with tarfile.open(tmp_path / "images.tar.gz") as archive:
        assert [row["file"] for row in written] == [name for name in archive.getnames() if name != "b"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda images, _: (images / "a" / "new.png").write_bytes(b""), "another images"),
        (lambda _, options: options.extend(["--sparsity", 0.3]), "another quality"),
    ],
)
def test_another_job_does_not_go_on_with_it(command, images, tmp_path, interrupting, change, says):
    own = shutil.copytree(images, tmp_path / "own")
    interrupting(2)
    assert command(given=own).exit_code == 130
    options = []
    change(own, options)
    failed(command(*options, given=own), says)


def test_memory_does_not_grow_with_the_number_of_images(command, monkeypatch, bundle):
    reads, ahead, read, answer = [], [], job._read, job._answer
    monkeypatch.setattr(job, "_read", lambda files, how, number: reads.append(number) or read(files, how, number))

    def answer_with_few_ahead(batch, *given):
        ahead.append(len(reads))
        return answer(batch, *given)

    monkeypatch.setattr(job, "_answer", answer_with_few_ahead)
    limit = library.compile(library.load(bundle), engine="cpu", threads=1).batch_limit
    succeeded(command())
    for number, count in enumerate(ahead, 1):
        assert count <= (number + 2) * limit + 1


def test_two_processes_do_not_write_one_file(command, tmp_path):
    with AnswerFile.open(tmp_path / "answers.csv", {}):
        failed(command(), "another process is writing")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--sparsity", 0.99), "out of reach"),
        (("--operating-point", "p99"), "no operating point"),
        (("--sparsity", 0.3, "--operating-point", "p25"), "two targets"),
        (("--sparsity", 0.3, "--finish-in", "5m"), "--finish-in is a target"),
        (("--finish-in", "soon"), "90s, 20m or 1h30m"),
        (("--finish-in", "0s"), "90s, 20m or 1h30m"),
    ],
)
def test_what_cannot_be_done_is_a_sentence(command, options, says):
    failed(command(*options), says)


def test_files_that_cannot_be_used_are_a_sentence(command, tmp_path):
    failed(command(out="answers.txt"), "must end in .csv or .parquet")
    failed(command(out="none/answers.csv"), "there is no folder")
    failed(command(given=tmp_path / "nowhere"), "no folder or archive")
    (tmp_path / "empty").mkdir()
    failed(command(given=tmp_path / "empty"), "there are no images")
    (tmp_path / "done.csv").write_text("")
    failed(command(out="done.csv"), "there already")
    (tmp_path / "odd.csv.part.json").write_text("{")
    failed(command(out="odd.csv"), "cannot be used")


def test_broken_files_alone_are_a_failure(command, tmp_path):
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "one.png").write_bytes(b"")
    failed(command(given=tmp_path / "broken"), "none of the 1 files could be classified")
    assert rows(tmp_path / "answers.csv")[0]["error"]
