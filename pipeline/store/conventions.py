"""The Zarr convention "attributions": what a store of attributions declares, whoever wrote it.

By the Zarr conventions mechanism (https://github.com/zarr-conventions/zarr-conventions-spec) a
group says in its attribute ``zarr_conventions`` which conventions it keeps. This one is described
in README.md beside this file, and as a JSON schema in attributions.schema.json.
`pipeline.store.conforming` tells what in a store breaks it.
"""

from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

UUID = "8ae620d4-5ea9-4aff-ad13-0667198c787e"
"""Names the convention for ever, wherever it is described."""
NAME = "attributions"
"""Attribute of the group that holds what the convention asks for."""
VERSION: Literal[1] = 1

CONVENTION = {
    "uuid": UUID,
    "name": NAME,
    "description": "Where and when a video model looks, or what speaks for its answer, by clip",
}
"""What a store puts into ``zarr_conventions``."""

CONVENTION_KEYS = ("uuid", "schema_url", "spec_url", "name", "description")
"""All that the mechanism allows in such an entry."""


class Attributions(BaseModel):
    """What a store says of its attributions, in the attribute ``attributions`` of its group."""

    model_config = ConfigDict(frozen=True, extra="allow", use_attribute_docstrings=True)

    version: Literal[1]
    """Version of the convention. A later one may give arrays another meaning."""
    method: str = Field(min_length=1)
    """Name of the method, such as `captum.IntegratedGradients`."""
    class_specific: bool
    """Whether an attribution says what speaks for a class, or only where the model looks."""
    class_names: tuple[str, ...] = Field(min_length=1)
    """Name of each class that `label` and `prediction` count from 0."""

    def to_attributes(self) -> dict[str, Any]:
        """Attributes by which a group declares that it keeps the convention."""
        return {"zarr_conventions": [dict(CONVENTION)], NAME: self.model_dump(mode="json")}


@dataclass(frozen=True)
class ConventionArray:
    """One array of the convention: its dimensions, the kinds of NumPy dtype it may have."""

    dims: tuple[str, ...]
    kinds: str
    """Of `numpy.dtype.kind`; T and U are texts."""
    meaning: str
    required: bool = False


ARRAYS: dict[str, ConventionArray] = {
    "status": ConventionArray(
        ("clip",), "u", "code of what became of the clip: 0 pending, 1 ok, others failed", True
    ),
    "video_id": ConventionArray(("clip",), "TU", "name of the clip's video", True),
    "spatial": ConventionArray(
        ("clip", "time", "y", "x"),
        "f",
        "S: where in each time step; not negative, and sums to 1 over (y, x)",
        True,
    ),
    "temporal": ConventionArray(
        ("clip", "time"),
        "f",
        "T: when; not negative, and sums to 1. The attribution is S * T",
        True,
    ),
    "prediction": ConventionArray(("clip",), "i", "class with the highest probability", True),
    "probability": ConventionArray(("clip",), "f", "probability of the predicted class", True),
    "label": ConventionArray(("clip",), "i", "class that the dataset gives, -1 if unknown"),
    "label_probability": ConventionArray(("clip",), "f", "probability of the labelled class"),
    "top_classes": ConventionArray(("clip", "rank"), "i", "most probable classes, best first"),
    "top_probabilities": ConventionArray(("clip", "rank"), "f", "their probabilities"),
    "frame_index": ConventionArray(
        ("clip", "frame"), "i", "frames of the file that the model saw; as many for each time step"
    ),
    "frame_time": ConventionArray(("clip", "frame"), "f", "when each of those is shown, in s"),
    "start_time": ConventionArray(("clip",), "f", "where the clip starts in its video, in s"),
    "message": ConventionArray(("clip",), "TU", "why the clip failed"),
}
"""Arrays that the convention knows, by name; a store may have others."""


def json_schema() -> dict[str, Any]:
    """Give the JSON schema of the convention: of the group's ``zarr.json``.

    It covers what a group declares. With consolidated metadata it covers the arrays, too.
    """
    about = Attributions.model_json_schema()
    fixed_length = {"type": "object", "properties": {"name": {"const": "fixed_length_utf32"}}}
    types: dict[str, Any] = {
        "u": {"enum": ["uint8", "uint16", "uint32", "uint64"]},
        "i": {"enum": ["int8", "int16", "int32", "int64"]},
        "f": {"enum": ["float16", "float32", "float64"]},
        "TU": {"anyOf": [{"const": "string"}, {**fixed_length, "required": ["name"]}]},
    }
    arrays = {
        name: {
            "description": each.meaning,
            "type": "object",
            "properties": {
                "node_type": {"const": "array"},
                "shape": {"type": "array", "minItems": len(each.dims), "maxItems": len(each.dims)},
                "dimension_names": {"const": list(each.dims)},
                "data_type": types[each.kinds],
            },
            "required": ["shape", "dimension_names", "data_type"],
        }
        for name, each in ARRAYS.items()
    }
    required = [name for name, each in ARRAYS.items() if each.required]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Zarr convention: attributions",
        "description": f"A Zarr v3 group of attributions of a video model, version {VERSION}",
        "type": "object",
        "properties": {
            "zarr_format": {"const": 3},
            "node_type": {"const": "group"},
            "attributes": {
                "type": "object",
                "properties": {
                    "zarr_conventions": {
                        "type": "array",
                        "contains": {"$ref": "#/$defs/convention"},
                    },
                    NAME: about,
                },
                "required": ["zarr_conventions", NAME],
            },
            "consolidated_metadata": {
                "type": ["object", "null"],
                "properties": {
                    "metadata": {"type": "object", "properties": arrays, "required": required}
                },
            },
        },
        "required": ["zarr_format", "node_type", "attributes"],
        "$defs": {
            "convention": {
                "type": "object",
                "properties": {
                    "uuid": {"const": UUID},
                    **{key: {"type": "string"} for key in CONVENTION_KEYS if key != "uuid"},
                },
                "required": ["uuid"],
                "additionalProperties": False,
            }
        },
    }
