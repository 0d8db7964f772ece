"""Keys for servers that ask for them."""

from __future__ import annotations

import hashlib
from pathlib import Path

CLIENT, OPERATOR, LIMITED = ({"X-API-Key": f"lccl_faults_{name}"} for name in ("client", "operator", "limited"))
LINES = {"client": [], "operator": ["admin = true"], "limited": ['rate = "5/hour"']}


def key_file(folder: Path) -> Path:
    """Write the file that ``--api-keys`` takes."""
    lines = []
    for name, more in LINES.items():
        digest = hashlib.sha256(f"lccl_faults_{name}".encode()).hexdigest()
        lines += [f'[keys."{name}"]', f'sha256 = "{digest}"', *more]
    file = folder / "keys.toml"
    file.write_text("\n".join(lines), encoding="utf-8")
    file.chmod(0o600)
    return file
