"""Define protocols: the measures of a published table and their pictures. Every result states name and version."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from s3diff.errors import OptionError
from s3diff.evaluation.measures import MEASURES, checked_names
from s3diff.options import as_whole


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """Define how results are scored; a change of any field is a new version.

    Colour, border and checkpoint are part of the measures' names. In every protocol pictures are read as 8-bit RGB at
    their own size, nothing is cropped or resized before the measures, and a result belongs to the truth of its name.

    Attributes:
        name: the value of ``--protocol``.
        version: raised with every change of the computation.
        metrics: names of ``MEASURES``, in the order of the table.
        source: the publication that it was taken from.
        caution: where figures of others can differ although they go by the same names.
    """

    name: str
    version: int
    metrics: tuple[str, ...]
    source: str
    caution: str = ""

    @property
    def title(self) -> str:
        """Name and version, as results carry them."""
        return f"{self.name} v{self.version}"


#: Name of a protocol that ``--metrics`` makes.
CUSTOM_PROTOCOL = "custom"
_FULL_REFERENCE = ("psnr_y", "ssim_y", "lpips_alex", "dists")

PROTOCOLS: dict[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            name="s3diff-paper",
            version=1,
            metrics=(*_FULL_REFERENCE, "niqe", "musiq", "maniqa_koniq", "clipiqa", "fid"),
            source="the S3Diff authors' evaluation script (pyiqa)",
            caution="Their script asks for MANIQA's KonIQ checkpoint and computes the no-reference measures in mixed "
            "precision; most re-runs report the PIPAL checkpoint, which osediff-paper has.",
        ),
        Protocol(
            name="osediff-paper",
            version=1,
            metrics=(*_FULL_REFERENCE, "niqe", "musiq", "maniqa_pipal", "clipiqa", "fid"),
            source="the OSEDiff authors' script (pyiqa) and their log for each picture",
            caution="Their LPIPS and DISTS ran in TF32 on a GPU, which moves LPIPS by up to 0.0003 on single pictures.",
        ),
        Protocol(
            name="realesrgan",
            version=1,
            metrics=("niqe_bt601", "psnr_rgb_border4"),
            source="the Real-ESRGAN paper (only NIQE) and its training options (PSNR on RGB, border of 4 px), BasicSR",
            caution="BasicSR's NIQE takes BT.601 luma; the one of pyiqa differs by about 0.2.",
        ),
    )
}


def register_protocol(protocol: Protocol) -> Protocol:
    """Add a user's protocol, which ``--protocol`` then takes; return it.

    Raises:
        OptionError: it is no Protocol, the name is taken, a field is of another type, or a measure does not exist.
    """
    if not isinstance(protocol, Protocol):
        raise OptionError(f"the protocol is {protocol!r}; give a Protocol, see s3diff.evaluation.Protocol")
    if not isinstance(protocol.name, str) or not protocol.name:
        raise OptionError(f"a protocol's name is {protocol.name!r}; give a text, such as my-protocol")
    if as_whole(protocol.version) is None:
        raise OptionError(f"version of the protocol {protocol.name} is {protocol.version!r}; give a whole number")
    if not isinstance(protocol.metrics, tuple | list):
        raise OptionError(f"metrics of the protocol {protocol.name} are {protocol.metrics!r}; give a tuple of names")
    if protocol.name in PROTOCOLS or protocol.name == CUSTOM_PROTOCOL:
        raise OptionError(f"the protocol {protocol.name!r} is there already; give yours another name")
    checked_names(protocol.metrics)
    PROTOCOLS[protocol.name] = protocol
    return protocol


def choose_protocol(name: str, metrics: Sequence[str] | str | None = None) -> Protocol:
    """Choose a protocol by name, or make one of the given metrics.

    Args:
        name: of ``PROTOCOLS``.
        metrics: None for those of the protocol; otherwise they, or the names of a text with commas, make a protocol
            called ``custom``.

    Raises:
        OptionError: a name does not exist.
    """
    if isinstance(metrics, str):
        metrics = [each.strip() for each in metrics.split(",") if each.strip()]
    if metrics is not None:
        return Protocol(name=CUSTOM_PROTOCOL, version=1, metrics=checked_names(metrics), source="chosen by --metrics")
    if name not in PROTOCOLS:
        raise OptionError(f"protocol is {name!r}; give one of {', '.join(PROTOCOLS)}, or --metrics")
    return PROTOCOLS[name]


def computable_metrics(protocol: Protocol, *, has_truth: bool) -> tuple[tuple[str, ...], dict[str, str]]:
    """Split the protocol's measures into those that a set allows and, with the reason, the others.

    Raises:
        OptionError: none is left.
    """
    needs_truth = {name for name in protocol.metrics if MEASURES[name].compares != "single"}
    left_out = (
        {} if has_truth else {name: f"{name} needs a truth, which this set does not have" for name in needs_truth}
    )
    kept = tuple(name for name in protocol.metrics if name not in left_out)
    if not kept:
        raise OptionError(
            f"{', '.join(protocol.metrics)}: each needs a truth, which this set does not have; give --truth FOLDER, or "
            f"--metrics with some of {', '.join(m.name for m in MEASURES.values() if m.compares == 'single')}"
        )
    return kept, {name: left_out[name] for name in protocol.metrics if name in left_out}
