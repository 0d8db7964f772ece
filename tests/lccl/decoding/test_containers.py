"""What is left of a file."""

from PIL import Image

from lccl.decoding.containers import read_container
from tests.lccl.decoding.corpus import encoded, smooth


def test_metadata_is_cut_out():
    content = encoded(Image.fromarray(smooth()), "JPEG", exif=b"Exif\0\0secret", comment=b"a comment")
    assert b"secret" in content
    left = read_container(content).content
    assert b"secret" not in left
    assert b"a comment" not in left
