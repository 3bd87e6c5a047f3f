"""How attention becomes an attribution: the options that are part of a run's identity."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, model_validator

from pipeline.base_config import FrozenConfig
from pipeline.errors import ConfigError

Precision = Literal["float32", "bfloat16", "float16"]


def _as_layers(value: Any) -> Any:
    """Accept one number as a list of one; the command line gives ``all`` and ``0,5`` as lists."""
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


Name = Literal[
    "staa",
    "staa-paper",
    "space",
    "residual",
    "contribution",
    "rollout",
    "rollout-contribution",
    "evidence",
]

_ALIASES: dict[str, dict[str, Any]] = {
    "staa": {"name": "staa-paper"},
    "residual": {"name": "staa-paper", "residual": True},
}
"""Other names for a method, and the options that they set."""

_KEYS: dict[str, tuple[str, ...]] = {
    "staa-paper": ("layers", "heads", "residual"),
    "space": ("layers", "heads"),
    "contribution": ("layers",),
    "rollout": (),
    "rollout-contribution": (),
    "evidence": (
        *("layers", "heads", "target", "derivative", "store_layers", "step_back"),
        *("change_weighted", "clamp"),
    ),
}
"""Options that can be chosen, by method; every method also takes `frame_importance`, and with it
`target`."""

_FIXED = {
    "staa-paper": "it is made of attention alone",
    "space": "it is made of attention over space alone",
    "contribution": "it weighs by what is added to the stream, all heads and the skip together",
    "rollout": "it goes through every layer, with heads averaged and skips included",
    "rollout-contribution": "it goes through every layer, all heads and the skip together",
    "evidence": "it follows the readout, not what passes between patches",
}
"""Why a method's other options can't be chosen."""

FOR_TARGETS = ("predicted", "label", "top2")
"""Values of `Method.target` that aren't the name of a class."""


class Method(FrozenConfig):
    """How a forward pass becomes an attribution."""

    named_by: ClassVar[str] = "name"

    name: Name = "staa-paper"
    """What is computed. From attention alone, and so blind to the class: `staa-paper` (or `staa`),
    STAA of single layers; `space`, the same without attention over time; `residual`, the same with
    the skip connection of attention over time; `rollout`, attention rollout through all layers and
    their skips. Weighed by what each token adds to the stream, and also blind to the class:
    `contribution`, `rollout-contribution`. For one class: `evidence`, what the readout reads in
    favour of it."""
    layers: Annotated[Literal["last", "all"] | tuple[int, ...], BeforeValidator(_as_layers)] = (
        "last"
    )
    """Layers that are read: `last`, `all`, or numbers, which count from the last if negative. An
    attentive pooler is one layer. STAA's attribution is that of the last layer, and the others are
    stored beside it; evidence is the sum over layers, by default over `all`."""
    heads: Literal["mean", "keep"] = "mean"
    """`mean` averages the heads' attention; `keep` also stores an attribution for each head. With
    divided attention these are the heads of the attention over space; attention over time is
    averaged over its heads."""
    residual: bool = False
    """Include the skip connection around divided temporal attention, as (B + I) / 2."""
    target: str = "predicted"
    """Class to find evidence for: `predicted`, `label` (the predicted class if a clip has none),
    the name of a class, or `top2`: the two best classes, each against all, and their difference."""
    derivative: Literal["frozen", "plain"] = "frozen"
    """For evidence: hold LayerNorm's deviation and the activation's gate, so that the parts sum to
    the logit, or take the full derivative."""
    store_layers: bool = False
    """Store evidence of each layer beside the sum over them."""
    step_back: bool = False
    """For evidence in a model that classifies the mean of its final tokens: follow these tokens one
    step back, through the last block."""
    clamp: Literal["parts", "sum"] = "parts"
    """For evidence: drop what speaks against the class in the part of each layer and head
    (`parts`), or in a token's sum over all of these (`sum`), where heads for and against the class
    cancel."""
    change_weighted: bool = False
    """Multiply evidence by each token's distance from the same token of the clip's median frame."""
    frame_importance: Literal["gradient", "insertion"] | None = None
    """Also store which times matter for the class: `gradient`, by a backward pass through the whole
    model, or `insertion`, by seven forward passes at most, which is nearer to the truth. (Evidence
    over time says when evidence was read, which is something else.)"""

    @model_validator(mode="before")
    @classmethod
    def _names_stand_for_options(cls, given: Any) -> Any:
        given = cls.spelled_out(given)
        if not isinstance(given, Mapping) or not isinstance(name := given.get("name"), str):
            return given
        if name == "evidence":
            # One layer's evidence is worth less and costs nearly as much.
            return {"layers": "all", **given}
        return {**given, **_ALIASES.get(name, {})}

    @model_validator(mode="after")
    def _only_what_the_method_knows(self) -> Self:
        known = {*_KEYS[self.name], "name", "frame_importance"}
        if self.frame_importance is not None:
            known.add("target")
        for key, field in type(self).model_fields.items():
            value = getattr(self, key)
            if key not in known and value != field.default:
                raise ValueError(
                    f"{key}={value!r} with name={self.name!r}: {_FIXED[self.name]}, so {key} is "
                    f"{field.default!r}"
                )
        return self

    @property
    def is_of_class(self) -> bool:
        """Whether what is stored depends on the class that is explained."""
        return self.name == "evidence" or self.frame_importance is not None

    @property
    def optional_arrays(self) -> tuple[str, ...]:
        """Names of the store's arrays that only some methods fill."""
        names: tuple[str, ...] = ("target",) if self.is_of_class else ()
        if self.name == "evidence":
            names += ("signed",)
            if self.target == "top2":
                names += ("runner_up_spatial", "runner_up_temporal")
        return names + (("frame_importance",) if self.frame_importance else ())

    def resolved(self, n_layers: int) -> "Method":
        """Give the same method with its layers as numbers, as a run's identity records it."""
        if self.name.startswith("rollout"):
            return self
        return self.model_copy(update={"layers": self.chosen_layers(n_layers)})

    def chosen_layers(self, n_layers: int) -> tuple[int, ...]:
        """Give the numbers of the layers that are read, from 0, in order; rollout reads all.

        Raises
        ------
        ConfigError
            If one isn't among the model's ``n_layers``.
        """
        if self.layers == "all" or self.name.startswith("rollout"):
            return tuple(range(n_layers))
        if self.layers == "last":
            return (n_layers - 1,)
        for layer in self.layers:
            if not -n_layers <= layer < n_layers:
                has = f"has {n_layers} layers" if n_layers > 1 else "is read in one layer alone"
                raise ConfigError(f"method.layers: {layer} is not in the model, which {has}")
        return tuple(sorted({layer % n_layers for layer in self.layers}))

    def n_stored_layers(self, n_layers: int) -> int:
        """Count the layers whose attribution is stored, out of ``n_layers``; 1 is the run's own."""
        if self.name == "evidence":
            return n_layers if self.store_layers or self.heads == "keep" else 1
        return 1 if self.name.startswith("rollout") else n_layers
