"""A researcher's own pieces: measures, protocols and methods from files, degradations in a DataLoader, LoRA tuning."""

from __future__ import annotations

import logging
import pickle
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from typer.testing import CliRunner

import s3diff.degradation
import s3diff.evaluation
import s3diff.networks
from s3diff.apps.cli import app
from s3diff.checkpoints.model_folder import load_model, read_description
from s3diff.degradation import PRESETS, Degrade, apply, draw
from s3diff.degradation.settings import DegradeOptions
from s3diff.errors import OptionError, PictureError
from s3diff.evaluation import MEASURES, PROTOCOLS, Measure, Protocol, register_measure, register_protocol
from s3diff.training.initial_model import prepare_initial_model
from s3diff.training.recipes import tune, tune_lora

PLUGIN = """
from s3diff.evaluation import Measure, Protocol, register_measure, register_protocol

def worst(result, truth):
    return (result - truth).abs().flatten(1).amax(1) * 255

register_measure(Measure("{name}", "Worst", "lower", "pair", 1, "largest error, 255ths", lambda device: worst))
register_protocol(Protocol(name="{name}-only", version=1, metrics=("{name}", "psnr_y"), source="mine"))
"""


def flat(path: Path, level: int, side: int = 16) -> None:
    path.parent.mkdir(exist_ok=True, parents=True)
    Image.fromarray(np.full((side, side, 3), level, np.uint8)).save(path)


def run(*arguments: object) -> tuple[int, str]:
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return done.exit_code, done.output


@pytest.fixture
def registered() -> Any:
    """What a test registers is gone afterwards."""
    from s3diff.evaluation import measures

    tables = (MEASURES, PROTOCOLS)
    before = [dict(table) for table in tables]
    yield
    for table, kept in zip(tables, before, strict=True):
        table.clear()
        table.update(kept)
    measures._registered.clear()


def test_a_measure_and_a_protocol_from_a_plugin_reach_every_report(here: Path, registered: Any) -> None:
    flat(here / "truth/a.png", 100)
    flat(here / "results/a.png", 107)
    plugin = here / "plugin.py"
    plugin.write_text(PLUGIN.format(name="worst"), "utf-8")
    arguments = ("evaluate", "results", "--truth", "truth", "--protocol", "worst-only", "-o", "report", "-q")
    code, output = run(*arguments)
    assert code == 2, "without the plugin the name is an error"
    assert "protocol is 'worst-only'; give one of" in output
    code, output = run(*arguments, "--plugin", plugin)
    assert code == 0, output
    assert "| results | 1 | 7.0 |" in output
    assert "worst-only v1" in output
    page = (here / "report/report.html").read_text("utf-8")
    assert "largest error, 255ths" in page
    assert '"worst"' in page
    code, output = run("evaluate", "results", "--truth", "truth", "--metrics", "wurst", "--plugin", plugin)
    assert (code, "'wurst' does not exist" in output) == (2, True)

    # The same name, another formula: old figures are not taken over.
    MEASURES["worst"] = Measure(
        "worst", "Worst", "lower", "pair", 1, "x", lambda device: lambda a, b: a.amax((1, 2, 3))
    )
    assert "| results | 1 | 0.4 |" in run(*arguments, "--plugin", plugin)[1]


def test_what_is_refused_in_one_line(here: Path, registered: Any) -> None:
    flat(here / "truth/a.png", 100)
    measure = Measure("mine", "Mine", "lower", "pair", 1, "mine", lambda device: lambda result, truth: result.mean())
    for changes, words in (
        ({"name": "psnr_y"}, "is there already"),
        ({"name": "My metric"}, "small letters"),
        ({"better": "up"}, "better of the measure mine is 'up'"),
        ({"compares": "niqe"}, "compares of the measure mine is 'niqe'"),
    ):
        with pytest.raises(OptionError, match=words):
            register_measure(Measure(**{**vars(measure), **changes}))
    for name, metrics, words in (("osediff-paper", ("psnr_y",), "is there already"), ("p", ("x",), "does not exist")):
        with pytest.raises(OptionError, match=words):
            register_protocol(Protocol(name=name, version=1, metrics=metrics, source=""))
    for wrong, words in (
        (5, "the measure is 5"),
        (replace(measure, load=None), "load of the measure mine is None"),  # type: ignore[arg-type]
        (replace(measure, name=3), "name is 3"),  # type: ignore[arg-type]
    ):
        with pytest.raises(OptionError, match=words):
            register_measure(wrong)  # type: ignore[arg-type]
    for fields, words in (
        ({"version": "1"}, "version of the protocol p is '1'"),
        ({"metrics": "psnr_y"}, "metrics of the protocol p are 'psnr_y'"),
        ({"name": 3}, "name is 3"),
    ):
        wrong_fields: dict[str, Any] = {"name": "p", "version": 1, "metrics": ("psnr_y",), "source": "", **fields}
        with pytest.raises(OptionError, match=words):
            register_protocol(Protocol(**wrong_fields))
    with pytest.raises(OptionError, match="the protocol is 5"):
        register_protocol(5)  # type: ignore[arg-type]
    register_measure(measure)
    code, output = run("evaluate", "truth", "--truth", "truth", "--metrics", "mine")
    assert (code, "the measure mine gave [] for 1 pictures; give [1]" in output) == (1, True)
    (here / "broken.py").write_text("1 / 0", "utf-8")
    for plugin, words in (("absent.py", "plugin is 'absent.py'"), ("broken.py", "broken.py fails: ZeroDivisionError")):
        code, output = run("evaluate", "truth", "--plugin", plugin)
        assert (code, len(output.splitlines())) == (2, 1)
        assert words in output


BROKEN = """
from s3diff.evaluation import Measure, register_measure
from s3diff.evaluation.statistics import Aggregate

def pair(device):
    return lambda result, truth: 1 / 0

def of_set(device):
    return lambda results, truths: {}["x"]

def load(device):
    raise KeyError("weights")

mean = lambda device: lambda result, truth: (result - truth).mean((1, 2, 3))
odd = Aggregate(lambda values: values, lambda means: means["x"])
register_measure(Measure("broken_pair", "A", "lower", "pair", 1, "x", pair))
register_measure(Measure("broken_set", "B", "lower", "set", 1, "x", of_set))
register_measure(Measure("broken_mean", "C", "lower", "pair", 1, "x", mean, odd))
register_measure(Measure("broken_load", "D", "lower", "pair", 1, "x", load))
"""


@pytest.mark.parametrize("name", ["broken_pair", "broken_set", "broken_mean"])
def test_a_measure_that_raises_costs_its_own_figures(here: Path, registered: Any, name: str) -> None:
    for picture in ("a", "b"):
        flat(here / f"truth/{picture}.png", 100)
    (here / f"plugin_{name}.py").write_text(BROKEN, "utf-8")
    arguments = ("--truth", "truth", "--plugin", f"plugin_{name}.py", "-q", "--batch-size", 2)
    code, output = run("evaluate", "truth", "--metrics", f"{name},psnr_y", *arguments)
    assert code == 1, output
    told = [line for line in output.splitlines() if f"the measure {name} fails: " in line and "- failed" not in line]
    assert len(told) == (1 if name == "broken_set" else 2), output
    assert re.search(r"^\| truth \| 2 \|.* 80.00 ", output, re.MULTILINE), "the other measure is there"


def test_a_measure_that_cannot_be_loaded_ends_the_run_in_one_line(here: Path, registered: Any) -> None:
    flat(here / "truth/a.png", 100)
    (here / "plugin_load.py").write_text(BROKEN, "utf-8")
    arguments = ("--truth", "truth", "--plugin", "plugin_load.py", "--metrics", "broken_load,psnr_y")
    code, output = run("evaluate", "truth", *arguments)
    assert (code, len(output.splitlines())) == (2, 1)
    assert "the measure broken_load fails: KeyError: 'weights'; correct the measure" in output


def test_a_method_from_a_file(here: Path) -> None:
    flat(here / "set/lr/a.png", 50, 8)
    flat(here / "set/hr/a.png", 60, 32)
    (here / "mine.py").write_text(
        "import numpy as np\n"
        "def brighter(low_quality, size):\n"
        "    return np.full((size[1], size[0], 3), 60 / 255)\n"
        "def small(low_quality, size):\n"
        "    return low_quality\n"
        "def broken(low_quality, size):\n"
        "    raise KeyError('x')\n",
        "utf-8",
    )
    arguments = ("--set", "set", "--metrics", "psnr_y", "-o", "out", "-q")
    code, output = run("benchmark", "mine.py:brighter", "B=mine.py:brighter", "bicubic", *arguments)
    assert code == 0, output
    rows = dict(re.findall(r"^\| (brighter|B|bicubic) \| 1 \| ([0-9.]+) \|", output, re.MULTILINE))
    assert rows["brighter"] == rows["B"] == "80.00"  # equal to the truth: PSNR's bound
    assert float(rows["bicubic"]) < 40
    with Image.open(here / "out/results/B/a.png") as made:
        assert (made.size, made.getpixel((0, 0))) == ((32, 32), (60, 60, 60))
    for method, words in (
        ("mine.py:small", "gave 8 x 8 px for a; give 32 x 32"),
        ("mine.py:broken", "mine.py:broken fails: KeyError: 'x'; correct the method"),
        ("mine.py:absent", "mine.py has no function 'absent'"),
        ("gone.py:f", "gone.py does not exist"),
    ):
        code, output = run("benchmark", method, *arguments)
        assert code in (1, 2)
        assert words in output


class _Pairs(Dataset[tuple[Tensor, Tensor]]):
    def __init__(self) -> None:
        self.degrade = Degrade("s3diff", scale=4)

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        truth = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(index))
        return self.degrade(truth, seed=index), truth


@pytest.mark.slow
def test_a_data_loader_with_two_workers_degrades_as_this_process_does() -> None:
    pairs = _Pairs()
    loaded = list(DataLoader(pairs, batch_size=2, num_workers=2))
    assert [tuple(low_quality.shape) for low_quality, _ in loaded] == [(2, 3, 16, 16)] * 2
    assert torch.equal(
        torch.cat([low_quality for low_quality, _ in loaded]), torch.stack([pairs[index][0] for index in range(4)])
    )


def test_degrade_is_draw_and_apply() -> None:
    truth = torch.rand(2, 3, 64, 80)
    made = pickle.loads(pickle.dumps(Degrade("mild", scale=2)))(truth, seed=5)
    drawn = draw(PRESETS["mild"], 2, 64, 80, 2, torch.Generator().manual_seed(5))
    assert torch.equal(made, apply(truth, drawn))
    one = Degrade(PRESETS["mild"], scale=2)
    assert one((truth[0] * 255).to(torch.uint8), seed=1).shape == (3, 32, 40)
    for arguments, words in (
        (("nothing",), "give one of"),
        ((["mild"],), "give one of"),
        (("mild", 0), "scale is 0"),
        (("mild", True), "scale is True"),
    ):
        with pytest.raises(OptionError, match=words):
            Degrade(*arguments)  # type: ignore[arg-type]
    wrong_pictures: list[tuple[Any, type[Exception], str]] = [
        (truth[:, :1], PictureError, r"has shape \(2, 1, 64, 80\); give \[B, 3, H, W\] of uint8"),
        (truth[0].permute(1, 2, 0), PictureError, "has shape"),
        (truth.long(), PictureError, "of type torch.int64"),
        (truth * 255, PictureError, "holds values from .*; clamp=True takes"),
        (truth * torch.nan, PictureError, "holds values from nan"),
        (truth.numpy(), PictureError, "are a ndarray and no tensor"),
        (truth[..., :7], OptionError, "cannot be reduced"),
    ]
    for wrong, kind, words in wrong_pictures:
        with pytest.raises(kind, match=words):
            one(wrong, seed=0)
    for seed in (1.5, "a", 2**70, None):
        with pytest.raises(OptionError, match="seed is"):
            one(truth, seed=seed)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match=r"seed is 1\.5"):
        DegradeOptions(seed=1.5)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match=r"scale is 2\.5"):
        DegradeOptions(scale=2.5)  # type: ignore[arg-type]
    assert torch.equal(one(truth * 1.1 - 0.05, seed=0, clamp=True), one((truth * 1.1 - 0.05).clamp(0, 1), seed=0))


@pytest.mark.parametrize("package", [s3diff, s3diff.degradation, s3diff.evaluation, s3diff.networks])
def test_public_names_are_there(package: Any) -> None:
    for name in package.__all__:
        assert getattr(package, name) is not None
        assert name in dir(package)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = package.nothing


@pytest.mark.parametrize("package", [s3diff, s3diff.degradation, s3diff.evaluation, s3diff.networks])
def test_the_typed_script_uses_every_public_name(package: Any) -> None:
    """The script that ``.ci/run`` gives to ``mypy --strict`` leaves nothing public out."""
    written = set(re.findall(r"\w+", Path(__file__).with_name("public_typing.py").read_text("utf-8")))
    assert not set(package.__all__) - written


def test_a_folder_may_be_given_as_text(small: Path) -> None:
    assert load_model(str(small)).fingerprint == read_description(str(small)).fingerprint


def test_tuning_a_model_with_a_base(tiny: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Its filter and its prompts stay, and what is trained is said."""
    caplog.set_level(logging.INFO, "s3diff")
    start = prepare_initial_model(tune_lora(), str(tiny), None)
    trained = start.model.trained_state()
    assert any(name.endswith("lora_A") for name in trained)
    assert all(
        name.endswith(("lora_A", "lora_B")) or name.startswith(("generator.conditioning.", "generator.unet.conv_in."))
        for name in trained
    )
    assert start.config.upsampling == "bilinear", "the model's, not the recipe's"
    assert "trained: LoRA, conditioning and the UNet's conv_in" in caplog.text
    everything = prepare_initial_model(tune(), str(tiny), None)
    assert not everything.model.positive.requires_grad
    assert everything.model.generator.unet.conv_out.weight.requires_grad
    assert "the recipe tune_lora trains what" in caplog.text
    assert everything.config.guidance == 1.07
    of_compact = prepare_initial_model(tune(), "compact", None)
    assert of_compact.model.positive.requires_grad, "learned, no text's"
    assert of_compact.config.guidance == 1
