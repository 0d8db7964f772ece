"""``lccl``: train, calibrate, evaluate and measure models, and classify with them; offline."""

import typer

from lccl.cli import bench, bundles, calibration, classify, quantization, sidenet, training, tune
from lccl.cli.terminal import one_sentence_errors

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
for command in (
    training.train, training.attach, calibration.calibrate, calibration.evaluate, quantization.quantize,
    bundles.compare, bundles.self_test, bench.bench, tune.tune, classify.classify,
):  # fmt: skip
    app.command()(one_sentence_errors()(command))
app.command("canary", hidden=True)(one_sentence_errors()(bundles.canary))
app.add_typer(sidenet.app, name="sidenet")


if __name__ == "__main__":
    app()
