"""Files for ncnn: read, quantised and written again."""

import numpy as np
import pytest

from lccl.bench.ncnn import IS_INT8, quantise, read_files, write_files
from lccl.bench.turns import AbsentError

PARAM = """7767517
6 6
Input in0 0 1 in0
Convolution first 1 1 in0 1 0=2 1=3 3=1 5=1 6=18 9=1
Convolution second 1 1 1 2 0=2 1=3 3=2 5=1 6=36
Padding wider 1 1 2 3 5=0.000000e+00
BatchNorm norm 1 1 3 4 0=2
InnerProduct last 1 1 4 out0 0=3 1=1 2=6
"""


@pytest.fixture
def files(tmp_path):
    """A network of every kind of layer with weights."""
    random = np.random.default_rng(0)

    def floats(count):
        return random.standard_normal(count).astype(np.float32).tobytes()

    kind = bytes(4)
    parts = [kind, floats(18), floats(2), kind, floats(36), floats(2), floats(8), kind, floats(6), floats(3)]
    param, model = tmp_path / "a.param", tmp_path / "a.bin"
    param.write_text(PARAM)
    model.write_bytes(b"".join(parts))
    return param, model


def test_files_are_written_as_they_were_read(files, tmp_path):
    again = tmp_path / "b.param", tmp_path / "b.bin"
    write_files(read_files(*files), *again)
    assert [file.read_bytes() for file in again] == [file.read_bytes() for file in files]


def test_weights_of_unknown_layers_are_refused(files):
    files[1].write_bytes(files[1].read_bytes() + bytes(4))
    with pytest.raises(AbsentError, match="unknown layers"):
        read_files(*files)


@pytest.mark.parametrize(("winograd", "levels"), [(False, 127), (True, 31)])
def test_weights_become_integers_of_as_many_bits_as_the_kernel_takes(files, winograd, levels):
    layers = read_files(*files)
    first, second, norm, last = (
        list(quantise(layers, {"in0": 2.0, "1": 3.0, "4": 4.0}, winograd))[index] for index in (1, 2, 4, 5)
    )
    assert norm.parts == layers[4].parts
    assert [layer.values["8"] for layer in (first, second, last)] == ["102", "2", "2"]  # the first feeds the second
    for layer, before, count, most, scales in (
        (first, layers[1], 18, levels, [2, 3]),
        (second, layers[2], 36, 127, [3]),  # a stride of 2 is never transformed
        (last, layers[5], 6, 127, [4]),
    ):
        kind, integers, bias, steps, ends = layer.parts
        assert (kind, bias, len(integers) % 4) == (IS_INT8, before.parts[2], 0)
        rows = np.frombuffer(integers[:count], np.int8).reshape(before.size("0"), -1)
        wanted = np.frombuffer(before.parts[1], np.float32).reshape(rows.shape)
        assert (abs(rows).max(axis=1) == most).all()
        np.testing.assert_allclose(rows / np.frombuffer(steps, np.float32)[:, None], wanted, atol=wanted.max() / most)
        assert np.frombuffer(ends, np.float32).tolist() == scales
