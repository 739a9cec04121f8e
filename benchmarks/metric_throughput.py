"""Pictures a second of our measures, beside ``lpips`` and ``torchmetrics`` where they are installed, in one run.

    pip install torchmetrics; pip install lpips      # lpips brings torchvision
    python benchmarks/metric_throughput.py RESULTS TRUTH [--count 8] [--batch 1] [--device cpu] [--cpu-time]

The same pictures, batch and threads for all; the median of three passes after one that warms up; reading the files is
left out. --cpu-time counts the process's own seconds instead of the clock's, for a machine that has other work. Where a
value of ours and of the other can be compared, the largest difference is printed: LPIPS with our weights in the other
package's network (its own would have to be fetched), PSNR and SSIM on RGB. SSIM differs by up to some thousandths,
because torchmetrics goes on into the mirrored border while ours takes whole windows alone, as published.
"""

from __future__ import annotations

import argparse
import importlib.util
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from s3diff.evaluation.measures import load_measures
from s3diff.evaluation.sets import match_results, results_set
from s3diff.images.files.reading import read_picture
from s3diff.images.picture import to_tensor

Score = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
OURS = ("psnr_rgb", "ssim_rgb", "psnr_y", "ssim_y", "niqe", "lpips_alex", "dists")
PASSES = 3


def others(device: torch.device) -> dict[str, tuple[str, Score]]:
    """The other packages' measures by our name; what is not installed is said."""
    found: dict[str, tuple[str, Score]] = {}
    if importlib.util.find_spec("torchmetrics") is None:
        print("torchmetrics is not installed: left out")
    else:
        from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

        def psnr(result: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
            return peak_signal_noise_ratio(result, truth, 1.0, reduction="none", dim=(1, 2, 3))

        def ssim(result: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
            return structural_similarity_index_measure(result, truth, data_range=1.0, reduction="none")

        found["psnr_rgb"], found["ssim_rgb"] = ("torchmetrics", psnr), ("torchmetrics", ssim)
    try:
        import lpips
    except (ImportError, RuntimeError) as error:  # RuntimeError: a torchvision that does not fit this torch
        print(f"lpips is left out: {' '.join(str(error).split())}")
        return found
    found["lpips_alex"] = ("lpips", _foreign_lpips(lpips, device))
    return found


def _foreign_lpips(package: object, device: torch.device) -> Score:
    """The lpips package's network on AlexNet with our copy of the weights."""
    from s3diff.evaluation.perceptual_weights import load_perceptual_weights

    network = package.LPIPS(net="alex", pretrained=False, pnet_rand=True, verbose=False)  # type: ignore[attr-defined]
    weights = load_perceptual_weights("lpips_alex")
    convolutions = [layer for layer in network.net.modules() if isinstance(layer, torch.nn.Conv2d)]
    with torch.no_grad():
        for i, layer in enumerate(convolutions):
            layer.weight.copy_(weights[f"convolutions.{i}.weight"])
            layer.bias.copy_(weights[f"convolutions.{i}.bias"])
        for k, head in enumerate(network.lins):
            head.model[-1].weight.copy_(weights[f"linear.{k}"].view(1, -1, 1, 1))
    network = network.eval().to(device)
    return lambda result, truth: network(2 * result - 1, 2 * truth - 1).flatten()


def timed(
    score: Score, batches: list[tuple[torch.Tensor, torch.Tensor]], clock: Callable[[], float]
) -> tuple[float, torch.Tensor]:
    """Median seconds for all pictures, and the values."""
    seconds = []
    for _ in range(1 + PASSES):
        started = clock()
        values = torch.cat([score(result, truth).cpu() for result, truth in batches])
        seconds.append(clock() - started)
    return statistics.median(seconds[1:]), values


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("truth", type=Path)
    parser.add_argument("--count", type=int, default=8)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--cpu-time", action="store_true", help="the process's own seconds (CPU alone)")
    given = parser.parse_args()
    clock = time.process_time if given.cpu_time else time.perf_counter
    device = torch.device(given.device)
    items = results_set(given.truth, [given.results]).items
    paths = match_results(given.results, items, partial=True)
    pairs = [
        (to_tensor(read_picture(paths[item.name])), to_tensor(read_picture(item.truth)))
        for item in items
        if item.name in paths and item.truth is not None
    ][: given.count]
    batches = [
        tuple(torch.cat(images).to(device) for images in zip(*pairs[start : start + given.batch], strict=True))
        for start in range(0, len(pairs), given.batch)
    ]
    ours, left_out = load_measures(OURS, device)
    for reason in left_out.values():
        print(f"left out: {reason}")
    foreign = others(device)
    with torch.inference_mode():
        for name, measure in ours.items():
            seconds, values = timed(measure, batches, clock)  # type: ignore[arg-type]
            line = f"{name:11} {len(pairs) / seconds:7.2f} pictures/s"
            if name in foreign:
                package, score = foreign[name]
                other_seconds, other_values = timed(score, batches, clock)  # type: ignore[arg-type]
                difference = (values - other_values).abs().max()
                line += f"   {package:12} {len(pairs) / other_seconds:7.2f} pictures/s, values within {difference:.1e}"
            print(line, flush=True)
    size = f"{pairs[0][0].shape[3]} x {pairs[0][0].shape[2]} px, batch {given.batch}"
    size += ", CPU time" if given.cpu_time else ""
    print(
        f"{len(pairs)} pictures of {size}; {platform.machine()}, {torch.get_num_threads()} threads, {device}, "
        f"torch {torch.__version__}"
    )


if __name__ == "__main__":
    main()
