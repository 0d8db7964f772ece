"""Writes the dashboards that Grafana reads: ``python -m deploy.grafana``, after a change to their modules."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from deploy.grafana import overview, resources, trade_off

FOLDER = Path(__file__).parent / "dashboards"
BUILDERS = {"overview": overview.build, "resources": resources.build, "trade-off": trade_off.build}
WIDTH = 120


def text_of(name: str) -> str:
    """A dashboard as its file's text: what fits on a line is written on one, so that a change shows as a few lines."""
    plain = json.loads(json.dumps(BUILDERS[name](), cls=JSONEncoder))
    return _compact(plain, 0) + "\n"


def _compact(value: Any, indent: int) -> str:
    line = json.dumps(value, ensure_ascii=False)
    if not isinstance(value, dict | list) or indent + len(line) < WIDTH:
        return line
    inner = " " * (indent + 1)
    if isinstance(value, list):
        entries = [inner + _compact(one, indent + 1) for one in value]
    else:
        entries = [f"{inner}{json.dumps(key)}: {_compact(one, indent + 1)}" for key, one in value.items()]
    opening, closing = "[]" if isinstance(value, list) else "{}"
    return f"{opening}\n" + ",\n".join(entries) + f"\n{' ' * indent}{closing}"


def main() -> None:
    for name in BUILDERS:
        (FOLDER / f"{name}.json").write_text(text_of(name))


if __name__ == "__main__":
    main()
