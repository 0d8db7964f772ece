"""What is looked at after every epoch: accuracy and reached skip ratio on a sample of the choosing part."""

import torch

from lccl.data import Split
from lccl.data.images import FileImages
from lccl.networks.inputs import images_at_once, normalise
from lccl.train.run import Run

SKIP_RATIOS = (0.3, 0.45, 0.6)
IMAGES, PHOTOGRAPHS = 1000, 400
AT_ONCE = 250


@torch.no_grad()
def watch(run: Run, split: Split) -> dict[str, float]:
    """Accuracy and reached skip ratio, exact and at a few thresholds; of photographs fewer are looked at."""
    network = run.result.eval()
    sampler, macs = run.sampler, run.sampler.macs.double().cpu()
    looked_at = split.first(PHOTOGRAPHS if isinstance(split.images, FileImages) else IMAGES)
    figures: dict[str, float] = {}
    for ratio in (0.0, *SKIP_RATIOS) if sampler.layers else (0.0,):
        asked = torch.tensor([ratio], device=run.device)
        row = sampler.shared_out(asked, run.recipe.allocation) * bool(ratio)
        right, skipped = 0.0, torch.zeros(sampler.layers, dtype=torch.float64)
        for pixels, labels in looked_at.batches(images_at_once(run.size, AT_ONCE)):
            with torch.autocast(run.device.type, torch.bfloat16, enabled=run.recipe.precision == "bf16"):
                output = network(normalise(pixels, run.statistics, run.device), row.expand(len(pixels), -1))
            right += float((output.logits.argmax(1).cpu() == torch.from_numpy(labels)).sum())
            if output.gates:
                pairs = zip(output.gates, row[0], strict=True)
                shares = torch.stack([(gate <= threshold).double().mean() for gate, threshold in pairs]).cpu()
                skipped += shares * len(pixels) / len(looked_at)
        figures[f"watched_accuracy_{ratio:g}"] = right / max(1, len(looked_at))
        if sampler.layers:
            figures[f"watched_skip_{ratio:g}"] = float(skipped @ macs / macs.sum())
            figures[f"watched_dead_{ratio:g}"] = float((skipped > 0.98).sum())
    return figures
