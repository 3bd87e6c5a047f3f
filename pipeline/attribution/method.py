"""How attention becomes an attribution: the options that are part of a run's identity."""

import re
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, model_validator

from pipeline.base_config import FrozenConfig
from pipeline.errors import ConfigError

Precision = Literal["float32", "bfloat16", "float16"]


def _as_layers(value: Any) -> Any:
    """Take one number for a list of one; the command line gives ``all`` and ``0,5`` as a list."""
    given = [
        part.strip() if isinstance(part, str) else part
        for item in (value if isinstance(value, list | tuple) else [value])
        for part in (item.split(",") if isinstance(item, str) else [item])
    ]
    if given in (["last"], ["all"]):
        return given[0]
    numbers = [
        part if type(part) is int else int(part)
        for part in given
        if type(part) is int or (isinstance(part, str) and re.fullmatch(r"-?\d+", part))
    ]
    if not numbers or len(numbers) < len(given):
        raise ValueError(f"{value!r}: expected last, all, or whole numbers such as 0,5,-1")
    return tuple(numbers)


class Method(FrozenConfig):
    """How attention becomes an attribution."""

    name: Literal["staa", "rollout"] = "staa"
    """STAA of single layers, or attention rollout through all of them, the skips included."""
    layers: Annotated[Literal["last", "all"] | tuple[int, ...], BeforeValidator(_as_layers)] = (
        "last"
    )
    """Blocks whose attention is read, `last`, `all`, or numbers, from the last if negative; an
    attentive pooler is one. The run's attribution is the last one's; several are stored beside."""
    heads: Literal["mean", "keep"] = "mean"
    """Average the heads' attention, or also store an attribution of each head. Of divided attention
    those are the heads of the attention over space; that over time is averaged over its own."""
    residual: bool = False
    """Count the skip connection around divided temporal attention, as (B + I) / 2."""

    @model_validator(mode="after")
    def _rollout_leaves_nothing_to_choose(self) -> Self:
        if self.name == "rollout":
            for key, default in (("layers", "last"), ("heads", "mean"), ("residual", False)):
                if (value := getattr(self, key)) != default:
                    raise ValueError(
                        f"{key}={value!r} with name='rollout': it goes through every layer, with "
                        f"its heads averaged and its skips, so {key} is {default!r}"
                    )
        return self

    def resolved(self, n_layers: int) -> "Method":
        """Give the same method with the numbers of its layers, as a run's identity has it."""
        if self.name == "rollout":
            return self
        return self.model_copy(update={"layers": self.chosen_layers(n_layers)})

    def chosen_layers(self, n_layers: int) -> tuple[int, ...]:
        """Give the numbers of the layers that are read, from 0, first to last; rollout reads all.

        Raises
        ------
        ConfigError
            If one isn't among the model's ``n_layers``.
        """
        if self.layers == "all" or self.name == "rollout":
            return tuple(range(n_layers))
        if self.layers == "last":
            return (n_layers - 1,)
        for layer in self.layers:
            if not -n_layers <= layer < n_layers:
                has = f"has {n_layers} layers" if n_layers > 1 else "is read in one layer alone"
                raise ConfigError(f"method.layers: {layer} is not in the model, which {has}")
        return tuple(sorted({layer % n_layers for layer in self.layers}))


def _named(value: Any) -> Any:
    """Take ``method: rollout`` for ``method: {name: rollout}``."""
    return {"name": value} if isinstance(value, str) else value
