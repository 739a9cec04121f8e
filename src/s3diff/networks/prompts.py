"""Encode a prompt's text to the embedding that the UNet attends to. Only this module imports transformers, when
needed.

The two prompts of the method are stored with the weights; other texts are encoded here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from s3diff import git_lfs
from s3diff.errors import MissingExtraError, ModelError

#: Tokens of every prompt, start and end included.
NUM_TOKENS = 77
#: Where a text encoder's weights lie: one file or shards with an index, each also as float16 variant.
_WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "model.fp16.safetensors",
    "model.safetensors.index.fp16.json",
)


def encode_prompts(tokenizer_folder: Path | None, text_encoder_folder: Path | None, texts: Sequence[str]) -> Tensor:
    """Embed texts as Stable Diffusion does: 77 tokens (cut or padded), last hidden state after the final layer norm.

    Args:
        tokenizer_folder: a CLIP tokenizer; its pad token fills up (SD-Turbo's is ``!``).
        text_encoder_folder: a CLIP text encoder in safetensors; None where a model has only its stored prompts.
        texts: N texts.

    Returns:
        [N, 77, C] float32.

    Raises:
        ModelError: the model has no text encoder, or a folder is incomplete or damaged.
        MissingExtraError: transformers is not installed.
    """
    if tokenizer_folder is None or text_encoder_folder is None:
        raise ModelError(
            "this model has only its stored prompts and no text encoder; leave the prompts out, or use a model that "
            "was converted with its text encoder"
        )
    token_ids = tokenize(tokenizer_folder, texts)
    text_encoder = _load_text_encoder(text_encoder_folder)
    num_known, length = text_encoder.config.vocab_size, text_encoder.config.max_position_embeddings
    if int(token_ids.max()) >= num_known or token_ids.shape[1] > length:
        raise ModelError(
            f"{tokenizer_folder} makes {token_ids.shape[1]} tokens up to {int(token_ids.max())}, {text_encoder_folder} "
            f"takes {length} below {num_known}; use the two folders of one model"
        )
    with torch.inference_mode():
        hidden: Tensor = text_encoder(input_ids=token_ids).last_hidden_state
    # A clone made outside inference mode is an ordinary tensor, which training may use.
    return hidden.to(torch.float32).clone()


def tokenize(tokenizer_folder: Path, texts: Sequence[str]) -> Tensor:
    """Turn texts into [N, 77] token numbers: start, the text (cut to 75 tokens), end, pad tokens.

    Raises:
        ModelError: the folder is incomplete or damaged.
        MissingExtraError: transformers is not installed.
    """
    transformers = _import_transformers()
    _require_tokenizer(tokenizer_folder)
    try:
        # Before transformers 5 the plain class cuts Chinese text differently, depending on what else is installed.
        kind = getattr(transformers, "CLIPTokenizerFast", None) or transformers.CLIPTokenizer
        tokenizer = kind.from_pretrained(str(tokenizer_folder), local_files_only=True)
        encoded = tokenizer(
            list(texts),
            max_length=min(tokenizer.model_max_length, NUM_TOKENS),
            padding="max_length",
            truncation=True,
            return_tensors="pt",
        )
    except Exception as error:
        # The tokenizers library raises plain Exception over a damaged file.
        raise ModelError(f"{tokenizer_folder} is no readable tokenizer ({_brief(error)}); copy it again") from error
    token_ids: Tensor = encoded.input_ids
    return token_ids


def _require_tokenizer(folder: Path) -> None:
    """Refuse a folder that lacks a file, or holds pointers of Git LFS in place of files.

    ``tokenizer.json`` holds everything that older versions of transformers wrote as ``vocab.json`` and ``merges.txt``.
    ``tokenizer_config.json`` says what fills a prompt up: without it another token would be taken, without a word.
    """
    older = () if (folder / "tokenizer.json").is_file() else ("vocab.json", "merges.txt")
    for name in (*older, "tokenizer_config.json"):
        if not (folder / name).is_file():
            raise ModelError(f"{folder / name} does not exist; a CLIP tokenizer's folder is needed")
    _require_no_pointers(folder)


def _require_no_pointers(folder: Path) -> None:
    for path in sorted(folder.iterdir()):
        if path.is_file() and git_lfs.is_pointer(path):
            raise ModelError(git_lfs.fetch_advice(path))


def _load_text_encoder(folder: Path) -> Any:
    transformers = _import_transformers()
    weights = [name for name in _WEIGHTS if (folder / name).is_file()]
    if not weights or not (folder / "config.json").is_file():
        raise ModelError(f"{folder} lacks config.json or model.safetensors; a text encoder's folder is needed")
    _require_no_pointers(folder)
    with _quiet(transformers):
        try:
            text_encoder, report = transformers.CLIPTextModel.from_pretrained(
                str(folder),
                local_files_only=True,
                use_safetensors=True,
                variant="fp16" if "fp16" in weights[0] else None,
                output_loading_info=True,
            )
        except Exception as error:
            # safetensors' error is a direct child of Exception, and transformers raises a dozen kinds.
            raise ModelError(f"{folder} is no readable text encoder ({_brief(error)}); copy it again") from error
    # transformers fills gaps with random numbers and goes on; here they are errors.
    faults = [str(name) for kind in ("missing_keys", "mismatched_keys") for name in report.get(kind) or ()]
    if faults:
        raise ModelError(f"{folder} does not fit its config.json: {', '.join(faults[:3])}; copy it again")
    return text_encoder.float().eval()


def _import_transformers() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise MissingExtraError(
            "a prompt that is not stored needs the package transformers, which is not installed; "
            "run: pip install transformers"
        ) from error
    return transformers


@contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """Silence progress bars and loading reports: faults are checked and raised."""
    logging = transformers.utils.logging
    verbosity = logging.get_verbosity()
    had_bar = logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if had_bar:
            logging.enable_progress_bar()


def _brief(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:160]
