"""The previous name of :mod:`lccl_client.images`, kept for one release."""

import warnings

from lccl_client.images import Image as Picture  # noqa: F401
from lccl_client.images import encoded  # noqa: F401

warnings.warn("lccl_client.pictures is now lccl_client.images", DeprecationWarning, stacklevel=2)
