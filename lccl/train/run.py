"""What a training run keeps from step to step, and its checkpoint."""

import copy
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from lccl.bundle.training_record import TrainingRecord
from lccl.errors import LcclError
from lccl.networks import Architecture, NetworkOutput, ResNet
from lccl.preprocessing import Preprocessing, Statistics
from lccl.train.recipe import Recipe
from lccl.train.thresholds import ThresholdSampler

CHECKPOINT, RECORD = "checkpoint.safetensors", "record.json"
YOUNG = 10


class WeightAverage:
    """An exponential average of a network's weights and statistics.

    Args:
        steps: over how many it averages; over fewer at first.

    """

    def __init__(self, network: ResNet, steps: float) -> None:
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self._steps = steps

    @torch.no_grad()
    def update(self, network: ResNet, done: int) -> None:
        """Take in the weights as they are after ``done`` steps of the run."""
        share = max(1 / self._steps, 1 - (1 + done) / (YOUNG + done)) if self._steps > 1 else 1.0
        pairs = zip(self.network.state_dict().values(), network.state_dict().values(), strict=True)
        for averaged, current in pairs:
            if averaged.is_floating_point():
                averaged.lerp_(current, share)
            else:
                averaged.copy_(current)


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """What a run keeps; ``average`` is there where the recipe asks for it."""

    recipe: Recipe
    network: ResNet
    forward: Callable[[Tensor, Tensor], NetworkOutput]
    optimiser: torch.optim.SGD
    sampler: ThresholdSampler
    statistics: Statistics
    size: int
    average: WeightAverage | None = None
    teacher: Callable[[Tensor], NetworkOutput] | None = None
    teacher_input: Preprocessing | None = None
    workers: int = 0

    @property
    def device(self) -> torch.device:
        return self.sampler.quantiles.device

    @property
    def result(self) -> ResNet:
        """The network that is watched and saved."""
        return self.network if self.average is None else self.average.network


@dataclass(frozen=True, slots=True, eq=False)
class Position:
    """Where in an epoch a run stands: steps done, the epoch's figures so far, and its random numbers' state.

    ``scales`` are those of maps where they are rounded to int8: they were found on the weights at the epoch's start.
    """

    step: int = 0
    seen: Mapping[str, float] = field(default_factory=dict)
    random: Tensor | None = None
    scales: Mapping[str, tuple[float, int]] = field(default_factory=dict)


def save(folder: Path, record: TrainingRecord, run: Run, position: Position | None = None) -> None:
    """Write the checkpoint beside the old one, then replace it: a crash leaves a whole checkpoint."""
    state = {f"network.{name}": value.contiguous() for name, value in run.network.state_dict().items()}
    if run.average is not None:
        averaged = run.average.network.state_dict().items()
        state |= {f"average.{name}": value.contiguous() for name, value in averaged}
    for name, parameter in run.network.named_parameters():
        momentum = run.optimiser.state[parameter].get("momentum_buffer")
        if momentum is not None:
            state[f"momentum.{name}"] = momentum.contiguous()
    state |= {f"sampler.{name}": value for name, value in run.sampler.state().items()}
    metadata = {"record": json.dumps(record.to_json())}
    if position is not None and position.random is not None:
        state["position.random"] = position.random
        metadata["position"] = json.dumps(
            {"step": position.step, "seen": dict(position.seen), "scales": dict(position.scales)}
        )
    fresh = folder / f"{CHECKPOINT}.new"
    save_file(state, fresh, metadata=metadata)
    fresh.replace(folder / CHECKPOINT)
    (folder / RECORD).write_text(json.dumps(record.to_json(), indent=1) + "\n", encoding="utf-8")


def resume(folder: Path, fresh: TrainingRecord, run: Run) -> tuple[TrainingRecord, Position]:
    """Set a run to its checkpoint, if it has one, and return the record so far and where in an epoch it stands.

    Raises:
        LcclError: the checkpoint is another run's.

    """
    file = folder / CHECKPOINT
    if not file.is_file():
        return fresh, Position()
    with safe_open(file, "pt") as checkpoint:
        metadata = checkpoint.metadata()
    record = _completed(TrainingRecord.from_json(json.loads(metadata["record"])), fresh)
    named = {"architecture": "architecture", "recipe": "recipe", "data": "data", "began": "start, teacher or classes"}
    for part, name in named.items():
        if getattr(record, part) != getattr(fresh, part):
            raise LcclError(f"{folder} holds a checkpoint with another {name}: choose another folder or remove it")
    parts: dict[str, dict[str, Tensor]] = {"network": {}, "average": {}, "momentum": {}, "sampler": {}, "position": {}}
    for name, value in load_file(file, device=str(run.device)).items():
        part, _, rest = name.partition(".")
        parts[part][rest] = value
    run.network.load_state_dict(parts["network"])
    if run.average is not None:
        run.average.network.load_state_dict(parts["average"])
    for name, parameter in run.network.named_parameters():
        if name in parts["momentum"]:
            run.optimiser.state[parameter]["momentum_buffer"] = parts["momentum"][name]
    position = Position()
    if parts["position"]:
        position = Position(**json.loads(metadata["position"]), random=parts["position"]["random"].cpu())
    assert fresh.data is not None
    steps = fresh.data.train // run.recipe.batch
    run.sampler.restore(parts["sampler"], len(record.epochs) * steps + position.step)
    return record, position


def _completed(record: TrainingRecord, fresh: TrainingRecord) -> TrainingRecord:
    """What was written before a part had all of its fields is completed with what they then were."""
    data: Any = record.data
    if data is not None and fresh.data is not None and data.size is None:
        data = replace(data, size=fresh.data.size, fit=fresh.data.fit)
    return replace(
        record,
        architecture=Architecture.from_json(record.architecture).to_json(),
        recipe=asdict(Recipe()) | dict(record.recipe or {}),
        data=data,
        began={**(fresh.began or {}), **(record.began or {})},
    )
