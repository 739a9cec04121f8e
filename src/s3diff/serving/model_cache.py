"""Offer models by name, and load each on its first request."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from s3diff.checkpoints.registry import NAMED_MODELS
from s3diff.errors import OptionError
from s3diff.networks.tiny_decoder import decodes_latents_of
from s3diff.restoration.restorer import Restorer

#: Models kept in memory; the least recently used one is dropped.
_MODELS_IN_MEMORY = 2


@dataclass(frozen=True, kw_only=True)
class OfferedModel:
    """Describe a model by the name that a request gives.

    Attributes:
        name: a name of the registry, or a model folder's own name.
        is_default: whether requests without a model get this one.
        takes_prompts: whether it has a text encoder for clients' prompts; None while it is not in memory.
        takes_tiny_decoder: whether TAESD decodes its latents; None while it is not in memory.
    """

    name: str
    summary: str
    is_default: bool = False
    is_loaded: bool = False
    takes_prompts: bool | None = None
    takes_tiny_decoder: bool | None = None


class ModelCache:
    """Keep the restorers of the most recently used models.

    Args:
        models: names of the registry or model folders; the first is the default.
        load: loads the restorer of a name or folder.

    Raises:
        OptionError: no model, or two of one name.
    """

    def __init__(self, models: Sequence[str | Path], load: Callable[[str | Path], Restorer]) -> None:
        self._places = {_name_of(model): model for model in models}
        if not models or len(self._places) < len(models):
            raise OptionError(f"models are {[str(model) for model in models]}; give at least one, each name once")
        self._load = load
        self._loaded: OrderedDict[str, Restorer] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def default(self) -> str:
        """Name of the model for requests without one."""
        return next(iter(self._places))

    def offered(self) -> list[OfferedModel]:
        """List all models, the default first."""
        loaded = {name: restorer.model for name, restorer in self._loaded.items()}
        return [
            OfferedModel(
                name=name,
                summary=NAMED_MODELS[name].summary if place in NAMED_MODELS else "a model folder of this service's",
                is_default=name == self.default,
                is_loaded=name in loaded,
                takes_prompts=loaded[name].text_encoder is not None if name in loaded else None,
                takes_tiny_decoder=decodes_latents_of(loaded[name].config.autoencoder) if name in loaded else None,
            )
            for name, place in self._places.items()
        ]

    def check(self, name: str) -> None:
        """Check that a model of that name is offered, without loading it.

        Raises:
            OptionError: no such model; a path is no name here, so no client reaches other folders.
        """
        if name not in self._places:
            raise OptionError(f"model is {name!r}; this service offers {', '.join(self._places)}")

    def restorer(self, name: str) -> Restorer:
        """Return the restorer of a model, loaded if necessary.

        Raises:
            OptionError: there is no such model.
            ModelError, DownloadError: it cannot be loaded.
        """
        self.check(name)
        with self._lock:
            if name not in self._loaded:
                while len(self._loaded) >= _MODELS_IN_MEMORY:
                    self._loaded.popitem(last=False)
                self._loaded[name] = self._load(self._places[name])
            self._loaded.move_to_end(name)
            return self._loaded[name]


def _name_of(model: str | Path) -> str:
    return model if isinstance(model, str) and model in NAMED_MODELS else Path(model).resolve().name
