"""What ``lccl train`` and ``lccl attach`` are asked on the command line."""

from pathlib import Path
from typing import Annotated, Literal

import typer

NAMES = (
    "CIFAR: resnet20, 32, 44, 56, 110, 164, wrn-16-4, 22-8, 28-2, 28-10, 40-1, 40-2, 40-4, 52-1. "
    "Photographs: resnet10, 14, 18, 18-w32, 18-w48, 34, 50."
)
Weights = Annotated[Path, typer.Argument(help="A plain ResNet: a .safetensors file, or a bundle's folder.")]
Runs = Annotated[Path, typer.Option(help="Where checkpoints and records go.")]
Network = Annotated[str | None, typer.Option(help=f"{NAMES}  [default: the start's, or resnet20]")]
AnyNetwork = Annotated[
    str | None, typer.Option("--network", help="What it must be; without it the weights' shapes tell.")
]
Size = Annotated[
    str | None,
    typer.Option(
        help="Pixels a side: 160, or 128:160 to grow in training, or 96,128,160 to draw from; served at the last.  "
        "[default: 32; photographs 128:160]"
    ),
]
Fit = Annotated[str | None, typer.Option(help="crop an image's middle, or stretch it to a square.  [default: crop]")]
Form = Annotated[
    str | None,
    typer.Option(
        help="Block form: post or pre activation; auto is the network's own.  [default: the start's, or auto]"
    ),
]
Gate = Annotated[
    str | None,
    typer.Option(
        help="shared, pointwise, grouped:G[:1x1]; none is the plain twin.  [default: the start's gates, or shared]"
    ),
]
AttachedGate = Annotated[str, typer.Option("--gate", help="shared, pointwise, grouped:G[:1x1].")]
Placement = Annotated[
    str | None,
    typer.Option(
        help="Pre-activation: aft-aft, aft-bef, bef-bef or bef-aft (BN + ReLU), what gates read.  "
        "[default: the start's, or aft-aft]"
    ),
]
GateNorm = Annotated[
    bool | None,
    typer.Option(
        "--gate-norm/--no-gate-norm",
        help="Normalise gates: ReLU(BN(conv)), else ReLU(conv).  [default: as the start's, or normalised]",
    ),
]
Split = Annotated[
    str | None,
    typer.Option(
        help="Split the blocks' 3×3 convolutions (SPConv): 1/2, 1/4 …, the share of 3×3 channels; none splits none.  "
        "[default: the start's, or none]"
    ),
]
GateL1 = Annotated[
    float, typer.Option(help="Weight of the mean gate value in the loss: regularised gates, with --no-gate-norm.")
]
Closing = Annotated[
    Literal["blocks", "layers", "last"],
    typer.Option(
        help="When the threshold search may close layers for all images: whole blocks or single layers as soon as that "
        "is cheapest, or last, after all positions."
    ),
]
Epochs = Annotated[int | None, typer.Option(help="[default: 20; photographs 40; other classes than before 15]")]
AttachedEpochs = Annotated[int, typer.Option("--epochs")]
Batch = Annotated[int | None, typer.Option(help="[default: 128; photographs 64, or fewer where there are few]")]
LearningRate = Annotated[float | None, typer.Option(help="Highest learning rate.  [default: 0.1; photographs 0.05]")]
AttachedRate = Annotated[
    float | None, typer.Option("--lr", help="Highest learning rate.  [default: 0.05; photographs 0.025]")
]
Precision = Annotated[
    str | None,
    typer.Option(help="fp32, or bf16 autocast.  [default: fp32; photographs bf16 where the processor multiplies it]"),
]
Start = Annotated[
    Path | None,
    typer.Option(help="A bundle of the same network to train further; for other classes its classifier is new."),
]
Teacher = Annotated[Path | None, typer.Option(help="A bundle whose answers are learned too: the plain twin's.")]
Distill = Annotated[
    float | None, typer.Option(help="Weight of the teacher's answers against the labels', 0..1.  [default: 0.7]")
]
Quantize = Annotated[
    bool, typer.Option("--quantize", help="Round maps and weights to int8 while training: a few epochs of --start.")
]
Labels = Annotated[
    Path | None, typer.Option(help="Class names in the order of the network's outputs; else the folders', sorted.")
]
Mean = Annotated[str | None, typer.Option(help="R,G,B of its normalisation, for values in 0..1.")]
Std = Annotated[str | None, typer.Option(help="R,G,B; without both ImageNet's, or a small network's data's.")]
Centred = Annotated[
    bool, typer.Option("--centred-shortcuts", help="Its type-A shortcuts put zero channels on both sides.")
]
Device = Annotated[str, typer.Option(help="cpu, cuda or cuda:i.")]
CompileNetwork = Annotated[bool, typer.Option("--compile", help="Compile the network first.")]
Workers = Annotated[int | None, typer.Option(help="Processes that decode photographs.  [default: by the cores]", min=0)]
Tensorboard = Annotated[Path | None, typer.Option(help="A folder for what TensorBoard shows.")]
