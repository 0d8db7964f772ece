"""A bundle is damaged on disk and loaded hot: the old version goes on, until a whole one takes its place."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import httpx

from benchmarks.faults.cases import MODEL, small_cases
from benchmarks.faults.keys import CLIENT, OPERATOR, key_file
from benchmarks.faults.load import loading
from benchmarks.faults.outcome import Counts, Outcome
from benchmarks.faults.rest import at_rest
from benchmarks.faults.scale import Scale
from benchmarks.server import MODELS, Server

LOAD_S = 60.0


def corrupt_bundle(scale: Scale, outcome: Outcome) -> None:
    """Each kind of damage is loaded under load; then a whole bundle is."""
    rounds = 1 if scale.quick else 5
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        shutil.copytree(MODELS / MODEL, folder / "models" / MODEL)
        with Server("bundles", "--models", str(folder / "models"), "--api-keys", str(key_file(folder))) as server:
            cases = [one.with_headers(CLIENT) for one in small_cases()]
            rest = at_rest(server.base, cases)
            with loading(server, rest, 100, rounds * (3 + 2 * len(DAMAGES))) as loaded:
                for _ in range(rounds):
                    for name, damage in DAMAGES.items():
                        _try(outcome, server, folder / "models" / MODEL, name, damage)
            loaded.enter(outcome, rest)
            outcome.faults += server.unready()
            outcome.faults += rest.surprises + server.errors()


def _try(outcome: Outcome, server: Server, home: Path, name: str, damage: Callable[[Path], None]) -> None:
    """Load a damaged bundle, then the whole one."""
    damage(home)
    refused, state = _load(server, outcome.counts), _state(server)
    outcome.require(refused in {404, 422}, f"a bundle with {name} is answered {refused}")
    outcome.require(state == "READY" or refused == 404, f"with {name} on disk, the index calls the old version {state}")
    for file in (MODELS / MODEL).iterdir():
        if file.is_file():
            shutil.copy(file, home)
    taken = _load(server, outcome.counts)
    outcome.require(taken == 200, f"after {name}, the whole bundle is answered {taken}")


def _load(server: Server, counts: Counts) -> int:
    path = f"{server.base}/v2/repository/models/{MODEL}/load"
    status = httpx.post(path, headers=OPERATOR, timeout=LOAD_S).status_code
    counts.sent += 1
    counts.answered[str(status)] += 1
    return status


def _state(server: Server) -> str:
    entries = httpx.post(f"{server.base}/v2/repository/index", headers=CLIENT, timeout=LOAD_S).json()
    return str(next((entry["state"] for entry in entries if entry["version"] == "1"), "gone"))


def _flip(home: Path) -> None:
    content = bytearray((home / "model.safetensors").read_bytes())
    content[len(content) // 2] ^= 1
    (home / "model.safetensors").write_bytes(content)


def _truncate(home: Path) -> None:
    with (home / "model.safetensors").open("r+b") as file:
        file.truncate(1000)


def _remove(home: Path) -> None:
    (home / "model.safetensors").unlink()


def _cut_description(home: Path) -> None:
    file = home / "bundle.json"
    file.write_bytes(file.read_bytes()[:-100])


def _edit_description(home: Path) -> None:
    file = home / "bundle.json"
    file.write_text(file.read_text(encoding="utf-8").replace("airplane", "aeroplane", 1), encoding="utf-8")


DAMAGES: dict[str, Callable[[Path], None]] = {
    "one bit of the weights flipped": _flip,
    "the weights cut off in place": _truncate,
    "the weights removed": _remove,
    "its description cut off": _cut_description,
    "its description edited": _edit_description,
}
