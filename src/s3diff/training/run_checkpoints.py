"""Write checkpoints with everything that a resumed run needs, whole or not at all; keep the last few."""

from __future__ import annotations

import logging
import re
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

import torch

from s3diff.atomic_write import flush_folder, remove_leftovers, whole_file
from s3diff.checkpoints.config_json import to_json
from s3diff.checkpoints.weights_file import first_line, read_torch_file
from s3diff.errors import ModelError, OptionError, TrainingError

_LOGGER = logging.getLogger(__name__)

#: Folder of the checkpoints inside a run's folder.
FOLDER = "checkpoints"
_NAME = re.compile(r"step-(\d{8})\.pt")
_FORMAT = "s3diff-run 3"

#: Fields that a resumed run may change without a remark: its results do not depend on them.
_DRIVING_FIELDS = re.compile(
    r"run\.(checkpoint_every|keep_checkpoints|log_every|stop_step)|validation\..*|data\.num_workers|gradient_checkpointing"
    r"|estimator_steps|export_precision|optimiser\.(max_skipped|max_steps)"
)
#: Fields that no resumed run may change: they decide which tensors there are (the optimiser's too).
_FIXED_FIELDS = re.compile(
    r"(generator|estimator|adversarial\.discriminator)\..*|start|trained|prompt_tokens|optimiser\.kind"
)


@dataclass(frozen=True, kw_only=True)
class RunState:
    """Hold the content of a checkpoint.

    Attributes:
        kind: ``generator`` or ``estimator``: which training it belongs to.
        config: the run's configuration as JSON values.
        step: updates made so far; with the seed it decides every later random number and the position in the data.
        batch_size: crops of one step over all processes.
        source: the value of ``--from``; None for a start from scratch.
        base: fingerprint of the frozen base weights, which are not stored.
        pictures: digest of the names of the data set's pictures.
        model: tensors by name.
        average: averaged trained tensors by name; empty where none are kept.
        optimisers: state of each optimiser by name.
        heads: the discriminator's trained tensors and buffers.
    """

    kind: str
    config: dict[str, Any]
    step: int
    batch_size: int
    source: str | None = None
    base: str = ""
    pictures: str
    model: dict[str, Any]
    average: dict[str, Any] = field(default_factory=dict)
    optimisers: dict[str, Any]
    heads: dict[str, Any] = field(default_factory=dict)


_KEYS = {"format", *(each.name for each in fields(RunState))}


def save_checkpoint(state: RunState, output: Path, keep: int) -> Path:
    """Write ``checkpoints/step-NNNNNNNN.pt`` and remove all but the last ``keep``.

    The file is flushed to the disk before it gets its name, and older ones go only then: neither a kill nor a power cut
    in the middle leaves the run without a whole checkpoint.

    Raises:
        TrainingError: the disk is full or the place cannot be written; older checkpoints stay.
    """
    folder = output / FOLDER
    path = folder / f"step-{state.step:08d}.pt"
    remove_leftovers(folder)
    try:
        with whole_file(path, overwrite=True) as file:
            torch.save({"format": _FORMAT, **vars(state)}, file)
        flush_folder(folder)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
        kept = checkpoint_paths(output)
        rest = f"{kept[-1].name} stays and --resume goes on from it" if kept else "there is no earlier one"
        reason = first_line(error.__cause__ or error)
        raise TrainingError(
            f"step {state.step}: the checkpoint {path} cannot be written ({reason}); {rest}: make room or choose "
            "another --output"
        ) from error
    for old in checkpoint_paths(output)[:-keep]:
        old.unlink(missing_ok=True)
    return path


def checkpoint_paths(output: Path) -> list[Path]:
    """List the whole checkpoints of a run, oldest first."""
    folder = output / FOLDER
    return sorted(path for path in folder.glob("step-*.pt") if _NAME.fullmatch(path.name)) if folder.is_dir() else []


def load_checkpoint(output: Path, kind: str) -> RunState:
    """Load the newest checkpoint of a run that can be read.

    Raises:
        ModelError: there is none, or it belongs to another version or another kind of training.
    """
    content, path = _newest_readable(output)
    if not isinstance(content, dict) or content.keys() != _KEYS or content["format"] != _FORMAT:
        raise ModelError(
            f"{path} is no checkpoint of this version's s3diff train; go on with the version that wrote it, or start "
            "again in another --output"
        )
    del content["format"]
    state = RunState(**content)
    if state.kind != kind:
        raise ModelError(f"{output} is a run of the {state.kind}'s training, not the {kind}'s; give its own folder")
    return state


def _newest_readable(output: Path) -> tuple[Any, Path]:
    require_run(output)
    paths = checkpoint_paths(output)
    for path in reversed(paths):
        try:
            return read_torch_file(path), path
        except ModelError:
            _LOGGER.warning("%s is damaged", path)
    raise ModelError(
        f"{output}: no checkpoint can be read ({', '.join(path.name for path in paths)}); remove them and start again"
    )


def require_run(output: Path) -> None:
    """Refuse a folder that holds no run.

    Raises:
        ModelError: it holds no checkpoint.
    """
    if not checkpoint_paths(output):
        raise ModelError(f"{output} holds no checkpoint to go on from; start without --resume")


def require_new_run(output: Path) -> None:
    """Refuse a folder that already holds a run.

    Raises:
        OptionError: it holds checkpoints.
    """
    if paths := checkpoint_paths(output):
        raise OptionError(
            f"{output} already holds a run ({paths[-1].name}); go on with --resume, or choose another --output"
        )


def require_same_run(
    state: RunState, config: Any, batch_size: int, base: str, pictures: str, *, accept_changes: bool
) -> list[str]:
    """Compare a checkpoint with the run that resumes from it.

    Returns:
        One line for each accepted difference.

    Raises:
        OptionError: it was made by another configuration (the fields are named), batch, data set or base model.
    """
    differences = differing_fields(_completed(state.config, config), to_json(config))
    fixed = [line for line in differences if _FIXED_FIELDS.fullmatch(line.split(" ", 1)[0])]
    if not state.heads:  # a discriminator starts afresh
        fixed = [line for line in fixed if not line.startswith("adversarial.")]
    # Another base model may have other networks; which weights are frozen depends on other fields.
    if state.base != base and all(line.startswith("generator.") for line in fixed):
        raise OptionError("the run was made on another base model; give the --from that it was started with")
    if state.pictures != pictures:
        differences.append("the pictures of --data (their names are not those that the run was started with)")
    if state.batch_size != batch_size:
        differences.append(
            f"crops per step {state.batch_size} -> {batch_size} (data.batch_size x data.accumulate x processes)"
        )
    if fixed or (differences and not accept_changes):
        named = fixed or differences
        remedy = "these cannot change" if fixed else "leave them as they were, or add --accept-changes"
        raise OptionError(f"the run was started with another configuration: {'; '.join(named)}; {remedy}")
    return differences


def _completed(before: dict[str, Any], config: Any) -> dict[str, Any]:
    """Fill a checkpoint's configuration with the defaults of later fields."""
    completed, now = dict(before), to_json(config)
    for each in fields(config):
        value = getattr(config, each.name)
        if each.name in before:
            if is_dataclass(value) and isinstance(before[each.name], dict):
                completed[each.name] = _completed(before[each.name], value)
        elif each.default is not MISSING:
            completed[each.name] = now[each.name] if each.default == value else each.default
    return completed


def differing_fields(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """List ``field before -> now`` for every field that a run's results depend on."""
    old, new = _flat(before), _flat(now)
    # The rate falls towards the end of the run, so its length decides what is computed.
    has_decay = bool(new.get("optimiser.decay_steps"))
    return [
        f"{name} {old.get(name)!r} -> {new.get(name)!r}"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
        and (not _DRIVING_FIELDS.fullmatch(name) or (has_decay and name == "optimiser.max_steps"))
    ]


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat
