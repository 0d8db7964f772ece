"""The previous name of :mod:`lccl_client.images`, kept for one release."""

from __future__ import annotations

import warnings

from lccl_client.images import Image as Picture
from lccl_client.images import encoded

__all__ = ["Picture", "encoded"]

warnings.warn("lccl_client.pictures is now lccl_client.images", DeprecationWarning, stacklevel=2)
