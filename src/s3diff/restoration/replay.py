"""Repeat a restoration from the statement in its result: ``s3diff restore --from-result``."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import TYPE_CHECKING, NamedTuple

from s3diff.errors import ModelError, OptionError, PictureError
from s3diff.option_texts import flag_of
from s3diff.options import LIMITS, OutputOptions, RestoreOptions
from s3diff.version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterator

    from s3diff.images.provenance import Provenance
    from s3diff.restoration.restorer import Restorer
    from s3diff.restoration.result import Degrees, Result

#: Estimates of one picture on two machines differ by less, those of two pictures hardly ever do.
_SAME_ESTIMATE = 1e-3


class Replay(NamedTuple):
    """Hold the arguments that make the same bytes again.

    Attributes:
        made: the statement.
        options: with the limits of the command.
        writing: with the stated quality.
    """

    path: str
    made: Provenance
    options: RestoreOptions
    writing: OutputOptions

    @property
    def degrees(self) -> Degrees:
        """The degrees that were used."""
        from s3diff.restoration.result import Degrees

        return Degrees(self.made.blur, self.made.noise)

    def differences(self, restorer: Restorer) -> Iterator[str]:
        """Check the model, and list the reasons why the bytes may differ, one sentence each.

        Raises:
            ModelError: the model is not the stated one.
        """
        if restorer.model.fingerprint != self.made.fingerprint:
            raise ModelError(
                f"{self.path} was made with {self.made.model} {self.made.fingerprint[:19]}..., the model here is "
                f"{restorer.model.fingerprint[:19]}...; give that model's folder with --model"
            )
        made = self.made
        for what, stated, here in (
            ("s3diff", made.version, __version__),
            ("the device", made.device, restorer.runs_on),
            ("compiled networks (--fast)", made.is_compiled, restorer.acceleration.compiled),
        ):
            if stated != here:
                yield f"{self.path} was made with {what} {stated}, now it is {here}: the bytes may differ"

    def strangeness(self, result: Result) -> tuple[str, ...]:
        """Return remarks if the input is not the result's input, or was restored in other tiles."""
        now, made = result.provenance, self.made
        if now is not None and now.input_digest and made.input_digest:
            if now.input_digest != made.input_digest:
                return (f"the input is not the one that {self.path} was made of: it has other pixels",)
            if made.tiles and now.tiles != made.tiles:
                tiles = now.tiles or f"tile {now.options.tile}"
                return (f"{self.path} was made in tiles ({made.tiles}), now ({tiles}): the bytes may differ",)
            return ()
        pairs = zip(result.estimated, (self.made.estimated_blur, self.made.estimated_noise), strict=True)
        if all(abs(now - stated) <= _SAME_ESTIMATE for now, stated in pairs):
            return ()
        return (f"the input is not the one that {self.path} was made of: its estimated degrees are others",)


def read_replay(path: str, options: RestoreOptions, writing: OutputOptions, *, stream: bool = False) -> Replay:
    """Read the statement of a result.

    Args:
        options: from the command line, where only the limits may be given.

    Raises:
        PictureError: the result states nothing, or cannot be read.
        OptionError: an option is given as well, or the statement is another version's.
    """
    from s3diff.images.files.provenance_inspection import read_statement

    usual = RestoreOptions()
    given = [name for name in vars(usual) if name not in LIMITS and getattr(options, name) != getattr(usual, name)]
    given += ["quality"] * (writing.quality != OutputOptions().quality)
    if given:
        raise OptionError(
            f"--from-result and {flag_of(given[0])} exclude each other: a result states its options; leave out one"
        )
    made = read_statement(path).restorations
    if not made:
        raise PictureError(f"{path} does not state how it was made; only results of s3diff with provenance do")
    if stream and not made[-1].is_streamed:
        raise OptionError(f"{path} was not made with --stream; leave it out")
    limits = {field.name: getattr(options, field.name) for field in fields(options) if field.name in LIMITS}
    writing = writing if made[-1].quality is None else replace(writing, quality=made[-1].quality)
    return Replay(path, made[-1], replace(made[-1].options, **limits), writing)


def model_of(made: Provenance) -> str:
    """Return the name of the stated model.

    Raises:
        ModelError: s3diff has no model of that name; a result never names a folder of this machine.
    """
    from s3diff.checkpoints.registry import NAMED_MODELS

    if made.model not in NAMED_MODELS:
        raise ModelError(
            f"the result was made with the model {made.model[:60]!r}, which is none of {', '.join(NAMED_MODELS)}; give "
            "its folder with --model"
        )
    return made.model
