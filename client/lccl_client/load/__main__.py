"""``python -m lccl_client.load``: the command ``lccl-client bench``, as a process that can be pinned."""

from __future__ import annotations

import typer

from lccl_client.cli import bench

if __name__ == "__main__":
    typer.run(bench)
