"""The command ``lccl-client``; it needs the extra ``bench``."""

from __future__ import annotations


def main() -> None:
    """Run the command line, or say what is missing."""
    try:
        from lccl_client.cli import app  # noqa: PLC0415 - what it needs may not be installed
    except ModuleNotFoundError as error:
        raise SystemExit(f"{error}: install lccl-client[bench]") from error
    app()


if __name__ == "__main__":
    main()
