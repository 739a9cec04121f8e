"""Load TAESD's decoder from the package."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from safetensors.torch import load_file

from s3diff.networks.tiny_decoder import TinyDecoder


def load_tiny_decoder() -> TinyDecoder:
    """Load the decoder in float32, on the CPU, not to be trained. The packaged weights are 8-bit floats."""
    weights = load_file(Path(str(files("s3diff") / "models" / "taesd" / "decoder.safetensors")))
    decoder = TinyDecoder()
    decoder.load_state_dict({name: value.float() for name, value in weights.items()})
    return decoder.eval().requires_grad_(False)
