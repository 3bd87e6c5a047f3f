"""What an attribution is, and of what class: the options that are part of a run's identity."""

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
    "libragrad",
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
    "libragrad": ("target",),
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
    "libragrad": "it goes back through every layer and head to the patches as they were put in",
}
"""Why a method's other options can't be chosen."""

_OF_CLASS = ("evidence", "libragrad")
"""Methods whose attribution is one for a class."""

_THROUGH_ALL_LAYERS = ("rollout", "rollout-contribution", "libragrad")
"""Methods that go through every layer, of which there is one attribution."""

FOR_TARGETS = ("predicted", "label", "top2")
"""Values of `Method.target` that aren't the name of a class."""


class Method(FrozenConfig):
    """How a forward pass becomes an attribution."""

    named_by: ClassVar[str] = "name"

    name: Name = "evidence"
    """What is computed. For one class: `evidence`, what the readout reads in favour of it; and
    `libragrad`, what each patch adds in favour of it through the whole model (LibraGrad), which
    takes a backward pass: together 2 to 3 forward passes. From attention alone, and so blind to the
    class: `staa-paper` (or `staa`), STAA of single layers; `space`, the same without attention over
    time; `residual`, the same with the skip connection of attention over time; `rollout`, attention
    rollout through all layers and their skips. Weighed by what each token adds to the stream, and
    also blind to the class: `contribution`, `rollout-contribution`."""
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
    """Class that is explained: `predicted`, `label` (the predicted class if a clip has none), the
    name of a class, or `top2`: the two best classes, each against all, and their difference."""
    derivative: Literal["frozen", "plain"] = "frozen"
    """For evidence: hold LayerNorm's deviation and the activation's gate, so that the parts sum to
    the logit, or take the full derivative."""
    store_layers: bool = False
    """Store evidence of each layer beside the sum over them."""
    step_back: bool | None = None
    """For evidence in a model that classifies the mean of its final tokens: follow these tokens one
    step back, through the last block; by default wherever a model does so."""
    clamp: Literal["parts", "sum"] = "sum"
    """For evidence: drop what speaks against the class in a token's sum over layers and heads
    (`sum`), where heads for and against the class cancel, or in the part of each layer and head
    (`parts`)."""
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
        if not isinstance(given, Mapping):
            return given
        name = given.get("name", cls.model_fields["name"].default)
        if not isinstance(name, str):
            return given
        if name == "evidence":
            # One layer's evidence is worth less and costs nearly as much.
            return {"layers": "all", **given}
        meant = _ALIASES.get(name, {})
        for key in meant.keys() - {"name"}:
            if given.get(key, meant[key]) != meant[key]:
                raise ValueError(
                    f"{key}={given[key]!r} with name={name!r}, which means {key}={meant[key]!r}"
                )
        return {**given, **meant}

    @model_validator(mode="after")
    def _only_what_the_method_knows(self) -> Self:
        known = {*_KEYS[self.name], "name", "frame_importance"}
        if self.frame_importance is not None:
            known.add("target")
        for key, field in type(self).model_fields.items():
            value = getattr(self, key)
            if key not in known and value != field.default:
                raise ValueError(
                    f"{key}={value!r} with name={self.name!r}: {_FIXED[self.name]}, so {key} can't "
                    "be chosen"
                )
        return self

    @property
    def is_of_class(self) -> bool:
        """Whether what is stored depends on the class that is explained."""
        return self.explains_class or self.frame_importance is not None

    @property
    def explains_class(self) -> bool:
        """Whether the attribution itself depends on that class."""
        return self.name in _OF_CLASS

    @property
    def goes_back(self) -> bool:
        """Whether the pass that predicts is differentiated, through the whole model."""
        return self.name == "libragrad"

    def check_compiled(self, compile_model: bool) -> None:
        """Raise a ValueError if a model is to be compiled whose pass isn't compiled."""
        if compile_model and self.goes_back:
            raise ValueError(
                f"compile_model={compile_model} with method.name={self.name!r}: its forward pass "
                "is differentiated, and such a pass isn't compiled"
            )

    @property
    def optional_arrays(self) -> tuple[str, ...]:
        """Names of the store's arrays that only some methods fill."""
        names: tuple[str, ...] = ("target",) if self.is_of_class else ()
        if self.explains_class:
            names += ("signed",)
            if self.target == "top2":
                names += ("runner_up_spatial", "runner_up_temporal")
        return names + (("frame_importance",) if self.frame_importance else ())

    @staticmethod
    def as_recorded(recorded: Mapping[str, Any]) -> dict[str, Any]:
        """Give options as a run recorded them, also one from when defaults were others.

        Until version 2 of the attributions the default was `staa-paper`, and evidence was clamped
        in its parts and not followed back. Runs have recorded all options that their release knew,
        those that mean nothing to the method included.
        """
        options = {"name": "staa-paper", **recorded}
        if options["name"] == "evidence":
            return {"clamp": "parts", "step_back": False, **options}
        return {key: value for key, value in options.items() if key not in ("clamp", "step_back")}

    def resolved(self, n_layers: int, *, pools_mean: bool) -> "Method":
        """Give the same method as a run's identity records it: nothing is left to the model.

        Parameters
        ----------
        n_layers
            Layers that `layers` chooses from.
        pools_mean
            Whether the model classifies the mean of its final tokens.
        """
        if self.name in _THROUGH_ALL_LAYERS:
            return self
        update: dict[str, Any] = {"layers": self.chosen_layers(n_layers)}
        if self.name == "evidence":
            update["step_back"] = self.steps_back(pools_mean=pools_mean)
        return self.model_copy(update=update)

    def steps_back(self, *, pools_mean: bool) -> bool:
        """Whether evidence is followed back in a model that does or doesn't average its tokens."""
        return pools_mean if self.step_back is None else self.step_back

    def as_flags(self) -> list[str]:
        """Give the flags of a command that stand for the method; for a resolved one, too."""
        default = type(self).model_validate({"name": self.name})
        flags = [f"--method {self.name}"]
        for key in type(self).model_fields:
            value = getattr(self, key)
            if value == getattr(default, key):
                continue
            flag = f"method.{key.replace('_', '-')}"
            if isinstance(value, bool):
                flags.append(f"--{'' if value else 'no-'}{flag}")
            else:
                told = ",".join(map(str, value)) if isinstance(value, tuple) else value
                flags.append(f"--{flag} {told}")
        return flags

    def of_attribution(self) -> "Method":
        """Give the method without what it stores beside the attribution; for a resolved one."""
        fixed: dict[str, Any] = {"heads": "mean", "store_layers": False, "frame_importance": None}
        if not self.explains_class:
            # The class is that of frame importance alone.
            fixed["target"] = type(self).model_fields["target"].default
            if isinstance(self.layers, tuple):
                # The attribution is that of the last layer that is read.
                fixed["layers"] = self.layers[-1:]
        return self.model_copy(update=fixed)

    def chosen_layers(self, n_layers: int) -> tuple[int, ...]:
        """Give the numbers of the layers that are read, from 0, in order; some methods read all.

        Raises
        ------
        ConfigError
            If one isn't among the model's ``n_layers``.
        """
        if self.layers == "all" or self.name in _THROUGH_ALL_LAYERS:
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
        return 1 if self.name in _THROUGH_ALL_LAYERS else n_layers
