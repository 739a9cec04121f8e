"""The curves of a run as one SVG picture: validation figures over steps, from its ``log.jsonl``.

python benchmarks/training_curve.py RUN OUT.svg
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

WIDTH_PX, HEIGHT_PX, MARGIN_PX = 420, 240, 48
#: Readable on a light and on a dark page.
LINE, TEXT = "#3b82f6", "#808080"


def read_curve(log: Path, name: str) -> list[tuple[int, float]]:
    """(step, value) of every line of the log that has the figure, later lines of a step replacing earlier ones."""
    points: dict[int, float] = {}
    for line in log.read_text("utf-8").splitlines():
        entry = json.loads(line)
        if name in entry:
            points[entry["step"]] = entry[name]
    return sorted(points.items())


def draw_curve(points: list[tuple[int, float]], title: str, left_px: int) -> list[str]:
    """SVG elements of one curve with its axes."""
    steps, values = [step for step, _ in points], [value for _, value in points]
    low, high = min(values), max(values)
    inner_width, inner_height = WIDTH_PX - 2 * MARGIN_PX, HEIGHT_PX - 2 * MARGIN_PX

    def place(step: int, value: float) -> str:
        x = left_px + MARGIN_PX + inner_width * (step - steps[0]) / max(1, steps[-1] - steps[0])
        y = MARGIN_PX + inner_height * (high - value) / max(1e-12, high - low)
        return f"{x:.1f},{y:.1f}"

    def write(x: float, y: float, text: str, anchor: str) -> str:
        return f'<text x="{x}" y="{y}" text-anchor="{anchor}" fill="{TEXT}">{text}</text>'

    left, bottom = left_px + MARGIN_PX, HEIGHT_PX - MARGIN_PX
    return [
        write(left_px + WIDTH_PX / 2, MARGIN_PX / 2, title, "middle"),
        f'<polyline points="{left},{MARGIN_PX} {left},{bottom} {left + inner_width},{bottom}" class="axis"/>',
        write(left - 6, MARGIN_PX + 4, f"{high:.3f}", "end"),
        write(left - 6, bottom + 4, f"{low:.3f}", "end"),
        write(left, bottom + 18, str(steps[0]), "middle"),
        write(left + inner_width, bottom + 18, str(steps[-1]), "middle"),
        write(left_px + WIDTH_PX / 2, bottom + 34, "step", "middle"),
        f'<polyline points="{" ".join(place(*point) for point in points)}" class="curve"/>',
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("output", type=Path)
    given = parser.parse_args()
    titles = {"validation/lpips_alex": "LPIPS (AlexNet), lower is better", "validation/psnr_y": "PSNR-Y in dB"}
    elements: list[str] = []
    for index, (name, title) in enumerate(titles.items()):
        points = read_curve(given.run / "log.jsonl", name)
        elements += draw_curve(points, title, index * WIDTH_PX)
        for step, value in points:
            print(f"{name} {step:6d} {value:.4f}")
    style = f"text{{font:12px sans-serif}} polyline{{fill:none;stroke:{TEXT}}} .curve{{stroke:{LINE};stroke-width:2}}"
    body = "\n".join(elements)
    size = f'width="{2 * WIDTH_PX}" height="{HEIGHT_PX}" viewBox="0 0 {2 * WIDTH_PX} {HEIGHT_PX}"'
    given.output.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" {size}>\n<style>{style}</style>\n{body}\n</svg>\n', "utf-8"
    )


if __name__ == "__main__":
    main()
