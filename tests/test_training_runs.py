"""Runs as users start them: the command, several processes, signals, kills, full disks, mistakes."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from command_runs import environment, files_up_to
from s3diff.apps.cli import app
from s3diff.checkpoints.model_folder import load_model
from s3diff.checkpoints.registry import model_folder
from s3diff.checkpoints.weights_file import read_torch_file
from s3diff.errors import OptionError
from s3diff.training.recipes import compact, find_estimator_recipe, find_recipe, paper, with_change
from s3diff.training.run_checkpoints import checkpoint_paths
from training_runs import differing, tiny_config

#: Of ``debug`` that make a run short: no estimator of its own, no validation.
QUICK = ("--set", "data.held_out=()", "--set", "run.checkpoint_every=100")

TINY_RECIPE = """
from dataclasses import replace
from s3diff.training.recipes import debug

def mine():
    config = debug()
    return replace(config, name="mine", data=replace(config.data, held_out=()))

def wrong():
    return 7

def failing():
    return 1 / 0
"""


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "s3diff.apps.cli", *map(str, arguments)]


def run(*arguments: object, launcher: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own; with a launcher in several."""
    line = command(*arguments)
    if launcher:
        line = [sys.executable, *launcher, *line[1:]]
    return subprocess.run(line, capture_output=True, text=True, env=environment(), timeout=300)


def invoke(*arguments: object) -> tuple[int, str, str]:
    """The command in this process."""
    from typer.testing import CliRunner

    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, result.stderr


def quick_debug(photos: Path, output: Path) -> list[object]:
    """Arguments of a run of ``debug`` whose estimator takes one step."""
    line = ["train", "debug", "--data", photos, "--output", output, "--cpu"]
    return [*line, *QUICK, "--set", "estimator_steps=1"]


def newest(output: Path) -> dict:
    return read_torch_file(checkpoint_paths(output)[-1])


def tensors(output: Path, step: int | None = None) -> dict[str, torch.Tensor]:
    contents = (read_torch_file(path) for path in reversed(checkpoint_paths(output)))
    content = next(each for each in contents if step in (None, each["step"]))
    found = {f"{part}.{name}": value for part in ("model", "average", "heads") for name, value in content[part].items()}
    for name, optimiser in content["optimisers"].items():
        for index, moments in optimiser["state"].items():
            found |= {f"{name}.{index}.{kind}": torch.as_tensor(value) for kind, value in moments.items()}
    return found


# --------------------------------------------------------------------------------------------- several processes


TWO_PROCESSES = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


@pytest.mark.skipif(sys.platform == "win32", reason="torch's Windows builds have no gloo rendezvous over files")
@pytest.mark.slow
def test_two_processes_resume_to_the_bit_and_equal_one_with_twice_the_batch(photos: Path, tmp_path: Path) -> None:
    base = ("train", "debug", "--data", photos, "--cpu", *QUICK, "--estimator", model_folder_of_debug(photos, tmp_path))
    base = (*base, "--set", "optimiser.eps=1e-3", "--set", "run.log_every=3")
    one_each = (*base, "--set", "data.batch_size=1")
    kept = ("--set", "run.checkpoint_every=3", "--set", "run.keep_checkpoints=3")
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    line = (*one_each, "--set", "optimiser.max_steps=8", *kept)
    done = run(*line, "--output", whole, launcher=TWO_PROCESSES)
    assert done.returncode == 0, done.stderr
    # Another one, from where the first was after its second checkpoint.
    shutil.copytree(whole, stopped)
    checkpoint_paths(stopped)[-1].unlink()
    assert newest(stopped)["step"] == 6
    done = run(*line, "--output", stopped, "--resume", launcher=TWO_PROCESSES)
    assert done.returncode == 0, done.stderr
    assert newest(whole)["step"] == newest(stopped)["step"] == 8
    assert newest(whole)["batch_size"] == 2
    assert not differing(tensors(whole), tensors(stopped))

    # One process with the whole batch: sums are taken in another order, nothing else differs.
    short = ("--set", "data.batch_size=2", "--set", "optimiser.max_steps=3")
    code, _, error = invoke(*base, *short, "--output", tmp_path / "one")
    assert code == 0, error
    one, two = tensors(tmp_path / "one"), tensors(whole, step=3)
    assert one.keys() == two.keys()
    # By the norm of a whole tensor: single values near zero are nothing but rounding, and how much of it depends on
    # the processor. A row that is missing, doubled or weighted wrongly moves every tensor by a tenth and more.
    for name in one:
        error = float((two[name].double() - one[name].double()).norm())
        assert error <= 1e-3 * float(one[name].double().norm()) + 1e-7, f"{name}: {error}"
    logs = ((folder / "log.jsonl").read_text().splitlines() for folder in (tmp_path / "one", whole))
    totals = [json.loads(next(line for line in log if json.loads(line)["step"] == 3))["total"] for log in logs]
    assert totals[0] == pytest.approx(totals[1], rel=1e-4)


def model_folder_of_debug(photos: Path, tmp_path: Path) -> Path:
    """An estimator of the debug recipe's shape, trained for two steps."""
    folder = tmp_path / "estimator"
    if not folder.exists():
        recipe = tmp_path / "small.py"
        recipe.write_text(
            "from dataclasses import replace\n"
            "from s3diff.training.recipes import compact_estimator, debug\n"
            "def small():\n"
            "    config = compact_estimator()\n"
            "    data = replace(config.data, crop_px=64, batch_size=2, held_out=())\n"
            "    return replace(config, estimator=debug().generator.estimator, data=data)\n"
        )
        code, out, error = invoke(
            *("train-estimator", "--recipe", f"{recipe}:small", "--data", photos, "--output", folder),
            *("--set", "optimiser.max_steps=2", "--cpu"),
        )
        assert code == 0, error
        assert out.strip() == str(folder / "estimator.safetensors")
    return folder


# ------------------------------------------------------------------------------------- signals, kills, full disks


def start_run(photos: Path, output: Path, *changes: str) -> subprocess.Popen[str]:
    arguments = ["train", "debug", "--data", photos, "--output", output, "--cpu", "--set", "data.held_out=()"]
    for change in ("optimiser.max_steps=100000", "run.log_every=1", *changes):
        arguments += ["--set", change]
    line = command(*arguments)
    return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment())


def wait_for(output: Path, step: int, process: subprocess.Popen[str], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        log = output / "log.jsonl"
        if log.is_file() and log.read_text().count("\n") >= step:
            return
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.1)
    raise AssertionError(f"the run did not reach step {step}")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM to send")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.slow
def test_a_signal_saves_and_ends_in_one_line(photos: Path, tmp_path: Path, number: signal.Signals) -> None:
    process = start_run(photos, tmp_path, "run.checkpoint_every=100000", "estimator_steps=1")
    wait_for(tmp_path, 2, process)
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    last = error.strip().splitlines()[-1]
    assert "stopped at step" in last
    assert "--resume" in last
    assert "Traceback" not in error
    step = newest(tmp_path)["step"]
    assert f"step {step};" in last
    assert step == sum(1 for line in (tmp_path / "log.jsonl").read_text().splitlines())


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no kill -9")
@pytest.mark.slow
def test_kill_9_during_a_save_leaves_the_previous_checkpoint_usable(photos: Path, tmp_path: Path) -> None:
    process = start_run(photos, tmp_path, "run.checkpoint_every=1", "run.keep_checkpoints=1", "estimator_steps=1")
    folder = tmp_path / "checkpoints"
    deadline = time.monotonic() + 120
    caught = False
    while time.monotonic() < deadline and not caught:
        assert process.poll() is None, process.communicate()[1]
        caught = bool(checkpoint_paths(tmp_path)) and any(folder.glob("*.part"))
    process.kill()
    process.communicate()
    assert caught, "no save was seen"
    step = newest(tmp_path)["step"]
    done = run(
        *("train", "debug", "--data", photos, "--output", tmp_path, "--cpu", "--resume", "--set", "data.held_out=()"),
        *("--set", f"optimiser.max_steps={step + 2}"),
    )
    assert done.returncode == 0, done.stderr
    assert newest(tmp_path)["step"] == step + 2
    assert not list(folder.glob("*.part"))


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on the size of files")
@pytest.mark.slow
def test_a_full_disk_during_a_save_is_one_line_and_the_previous_checkpoint_stays(photos: Path, tmp_path: Path) -> None:
    arguments = quick_debug(photos, tmp_path)
    code, _, error = invoke(*arguments, "--set", "optimiser.max_steps=2")
    assert code == 0, error
    before = checkpoint_paths(tmp_path)[-1].read_bytes()
    with files_up_to(len(before) // 2):
        code, _, error = invoke(*arguments, "--resume", "--set", "optimiser.max_steps=4")
    assert code == 1, error
    last = error.strip().splitlines()[-1]
    assert "cannot be written" in last
    assert "step-00000002.pt stays" in last
    assert "Traceback" not in error
    assert checkpoint_paths(tmp_path)[-1].read_bytes() == before
    assert not list((tmp_path / "checkpoints").glob("*.part"))


# --------------------------------------------------------------------------------------- the command and mistakes


#: Mistakes about what lies on the disk, code 1; all others are wrong use, code 2.
NOT_THERE = ("holds no checkpoint to go on from", "neither a model's name")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("train", "nothing"), "recipe is 'nothing'; give one of paper, as_released, compact, tune, tune_lora, debug"),
        (("train", "nothing.py:mine"), "nothing.py does not exist"),
        (("train", "debug", "--set", "loss.nothing=1"), "there is no field 'nothing'"),
        (("train", "debug", "--set", "optimiser.max_steps=many"), "max_steps is 'many'; a whole number is needed"),
        (("train", "debug", "--set", "data.degradations=worse"), "give some of s3diff"),
        (("train", "debug", "--set", "data.crop_px=60"), "data.crop_px is 60; give a multiple of 8"),
        (("train", "debug", "--resume"), "holds no checkpoint to go on from"),
        (("train", "paper"), "give --from"),
        (("train", "debug", "--from", "compact"), "leave --from out"),
        (("train", "tune", "--from", "nowhere"), "neither a model's name"),
        (("train-estimator", "--recipe", "nothing"), "give one of estimator, compact_estimator"),
        (("train-estimator", "--recipe", "estimator", "--model", "compact"), "change the recipe's estimator"),
        (("train-estimator", "--set", "optimiser.ema_decay=0.9"), "the estimator's weights are not averaged"),
        (("train-estimator", "--set", "data.degradations=mild,s3diff"), "the estimator takes one"),
        (("train", "debug", "--accept-changes"), "--accept-changes belongs to --resume"),
        (("train", "debug", "--set", "loss.l1=0", "--set", "loss.l2=0"), "every weight of loss is 0"),
        (("train", "debug", "--set", "data.crop_px=16"), "data.crop_px is 16"),
        (("train", "debug", "--set", "validation.crop_px=33"), "validation.crop_px is 33; at scale 4 give"),
        (("train", "debug", "--set", "loss.lpips_alex=1", "--set", "loss.max_shift_px=50"), "give 33 or less"),
        (("train", "debug", "--set", "loss.dists=1", "--set", "loss.perceptual_crop_px=5"), "give 31 or more"),
        (("train", "debug", "--set", "frozen_precision=bfloat16"), "change one of them"),
    ],
)
def test_mistakes_are_one_line(photos: Path, tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    code, out, error = invoke(*arguments, "--data", photos, "--output", tmp_path / "run", "--cpu")
    assert code == (1 if said in NOT_THERE else 2)
    assert said in error
    assert error.startswith("s3diff: ")
    assert error.count("\n") == 1
    assert not out
    assert not (tmp_path / "run").exists()


def test_no_data_is_an_error_at_the_start(tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "broken.png").write_bytes(b"x")
    for data, said in ((tmp_path / "nowhere", "nowhere"), (broken, "holds no picture to train on (1 skipped")):
        code, _, error = invoke("train", "debug", "--data", data, "--output", tmp_path / "run", "--cpu")
        assert code == 1
        assert said in error
        assert error.count("\n") == 1


def test_missing_perceptual_weights_are_named_with_the_remedy(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("S3DIFF_CACHE", str(tmp_path / "empty"))
    code, _, error = invoke(
        *("train", "debug", "--data", photos, "--output", tmp_path / "run", "--cpu", *QUICK),
        *("--set", "loss.lpips_vgg=1", "--set", "estimator_steps=1"),
    )
    assert code == 1
    assert "python -m s3diff.evaluation.perceptual_weights" in error.splitlines()[-1]
    assert "Traceback" not in error
    assert not (tmp_path / "run").exists(), "said before the estimator is trained"


def test_a_refused_resume_leaves_the_runs_configuration(photos: Path, tmp_path: Path) -> None:
    arguments = quick_debug(photos, tmp_path)
    code, _, error = invoke(*arguments, "--set", "optimiser.max_steps=1")
    assert code == 0, error
    assert "no validation: the recipe holds no pictures out" in error
    before = (tmp_path / "config.json").read_text()
    assert json.loads(before)["pictures"] == 5
    code, _, error = invoke(*arguments, "--resume", "--set", "loss.l2=9")
    assert code == 2
    assert "loss.l2 2.0 -> 9.0" in error
    assert (tmp_path / "config.json").read_text() == before


def test_a_folder_without_the_recipes_held_out_pictures_is_not_validated_and_says_so(
    photos: Path, tmp_path: Path
) -> None:
    changes = ("--set", "optimiser.max_steps=1", "--set", "estimator_steps=1")
    code, _, error = invoke("train", "debug", "--data", photos, "--output", tmp_path, "--cpu", *changes)
    assert code == 0, error
    assert "no validation: --data holds none of the recipe's held-out pictures" in error


def test_a_dry_run_prints_the_plan_and_writes_nothing(photos: Path, tmp_path: Path) -> None:
    code, out, error = invoke(
        "train", "compact", "--data", photos, "--output", tmp_path / "run", "--dry-run", "--set", "data.crop_px=64"
    )
    assert code == 0, error
    assert "trained 2,927,222" in out
    assert "unet_lora_A" in out
    assert "frozen" in out
    assert "5 pictures: 2.5 steps per epoch" in out
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_checkpointed_gradients_keep_less(photos: Path, tmp_path: Path) -> None:
    from s3diff.training.dry_run import activation_bytes
    from training_runs import make_start

    config = tiny_config()
    plain = activation_bytes(make_start(config).model, config)
    assert plain == 2 * activation_bytes(make_start(config).model, paper_precision(config))
    from dataclasses import replace

    saving = replace(config, gradient_checkpointing=True)
    assert 0 < activation_bytes(make_start(saving).model, saving) < 0.7 * plain


def paper_precision(config):
    from dataclasses import replace

    return replace(config, precision=paper().precision)


def test_a_users_own_recipe(photos: Path, tmp_path: Path) -> None:
    file = tmp_path / "my_file.py"
    file.write_text(TINY_RECIPE)
    config = find_recipe(f"{file}:mine")
    assert (config.name, config.data.held_out) == ("mine", ())
    for name, said in (
        ("wrong", "returns a int"),
        ("failing", "fails: ZeroDivisionError: division by zero"),
        ("absent", "has no function 'absent'"),
    ):
        with pytest.raises(OptionError, match=said):
            find_recipe(f"{file}:{name}")
    with pytest.raises(OptionError, match="returns an EstimatorTrainConfig"):
        find_estimator_recipe(f"{file}:mine")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("loss.dists", "has no ="),
        ("loss.nothing=1", "no field 'nothing'"),
        ("loss=1", "name one of its fields"),
        ("loss.dists.deep=1", "no fields of its own"),
        ("optimiser.max_steps=1.5", "is 1.5; a whole number is needed"),
        ("optimiser.max_steps=0", "give 1 or more"),
        ("optimiser.max_steps=True", "a whole number is needed"),
        ("loss.dists=much", "a finite number is needed"),
        ("loss.dists=1e999", "a finite number is needed"),
        (f"loss.dists={10**400}", "a finite number is needed"),
        ("precision=float8", "allowed are 'float32', 'bfloat16'"),
        ("optimiser.betas=0.9", "a list of 2 is needed"),
        ("gradient_checkpointing=2", "true or false is needed"),
        ("adversarial.discriminator.backbone=resnet", "allowed are 'dino', 'vgg16', 'random', 'pixels', 'none'"),
        ("negative_probability=2.0", "give a number from 0 to 1"),
        ("optimiser.learning_rate=-1", "optimiser.learning_rate is -1.0; give 0 or more"),
        ("optimiser.betas=2,2", "from 0 to below 1"),
        ("optimiser.ema_decay=2", "from 0 to below 1"),
        ("optimiser.eps=-1", "give a number above 0"),
        ("optimiser.clip_norm=-1", "give a number above 0"),
        ("optimiser.weight_decay=-1", "give 0 or more"),
        ("adversarial.learning_rate=-1", "give 0 or more"),
        ("adversarial.weight=-1", "give 0 or more"),
        ("adversarial.start_step=-3", "give 0 or more"),
        ("loss.l1=-1", "give 0 or more"),
        ("loss.vgg_images=-3", "give 0 or more"),
        ("loss.max_shift_px=-1", "give 0 or more"),
        ("data.min_detail=-1", "give 0 or more"),
        ("data.truth_blur_px=1,0.5", "give a lowest and a highest value from 0 to 2"),
        ("data.enlargement=0.5,2", "give a lowest and a highest factor from 1 to 4"),
        ("data.collage_probability=1.5", "give a number from 0 to 1"),
        ("run.seed=99999999999999999999999", "give a whole number from 0"),
    ],
)
def test_changes_are_typed_and_checked(change: str, message: str) -> None:
    with pytest.raises(OptionError, match=message) as error:
        with_change(compact(), change)
    assert "\n" not in str(error.value)


def test_changes_reach_the_field() -> None:
    assert with_change(compact(), "loss.dists=1").loss.dists == 1.0
    assert with_change(compact(), "optimiser.max_steps=7").optimiser.max_steps == 7
    assert with_change(compact(), "data.degradations=mild").data.degradations == ("mild",)
    assert with_change(compact(), "data.degradations=mild,s3diff").data.degradations == ("mild", "s3diff")
    assert with_change(compact(), 'data.degradations=("mild",)').data.degradations == ("mild",)
    assert with_change(compact(), "data.held_out=()").data.held_out == ()
    assert with_change(compact(), "optimiser.betas=0.5,0.6").optimiser.betas == (0.5, 0.6)
    assert with_change(compact(), "gradient_checkpointing=true").gradient_checkpointing is True
    changed = with_change(paper(), "adversarial.discriminator.backbone_weights=dino.safetensors")
    assert changed.adversarial.discriminator.backbone_weights == "dino.safetensors"


# ------------------------------------------------------------------------------------------------- the estimator


def test_an_estimators_training_drops_into_a_model_folder(photos: Path, tmp_path: Path) -> None:
    arguments = ["train-estimator", "--recipe", "compact_estimator", "--data", photos, "--model", "compact", "--cpu"]
    arguments += ["--set", "data.crop_px=64", "--set", "data.batch_size=2", "--set", "optimiser.decay_steps=0"]
    runs = [("whole", 4, ()), ("parts", 2, ()), ("parts", 4, ("--resume",))]
    for name, steps, more in runs:
        code, out, error = invoke(
            *arguments, "--output", tmp_path / name, "--set", f"optimiser.max_steps={steps}", *more
        )
        assert code == 0, error
    assert out.strip() == str(tmp_path / "parts" / "model")
    assert not differing(tensors(tmp_path / "whole"), tensors(tmp_path / "parts"))
    trained, shipped = load_model(tmp_path / "parts" / "model"), load_model(model_folder("compact"))
    mine, theirs = (model.generator.state_dict() for model in (trained, shipped))
    changed = differing(dict(mine), dict(theirs))
    assert changed
    assert all(name.startswith("estimator.") for name in changed)
    code, _, error = invoke(
        *("train", "debug", "--data", photos, "--output", tmp_path / "parts", "--resume", "--cpu", *QUICK)
    )
    assert code == 1
    assert "is a run of the estimator's training" in error
