"""Labels of a manifest to the class indices of a model."""

from collections.abc import Callable, Sequence

from pipeline.dataset.manifest import Manifest
from pipeline.errors import ManifestError


def resolve_labels(manifest: Manifest, *, class_names: Sequence[str], model: str) -> dict[str, int]:
    """Class index of each label of a manifest.

    A label is a class name of the model, as it stands or with other case and with underscores for
    spaces, or a class index.

    Raises
    ------
    ManifestError
        Names the first label that the model doesn't have, and its row.
    """
    index_of = class_index(class_names)
    resolved = {}
    for label, row in manifest.distinct_labels():
        index = index_of(label)
        if index is None:
            raise ManifestError(
                f"manifest: label {label!r} in row {row} of {manifest.url} is not a class of "
                f"{model}, which has {len(class_names)} ({', '.join(class_names[:3])}, ...)"
            )
        resolved[label] = index
    return resolved


def class_index(class_names: Sequence[str]) -> Callable[[str], int | None]:
    """Give the function from a text to the index of the class that it names, or None."""
    exact = {name: index for index, name in enumerate(class_names)}
    loose = {_loose(name): index for name, index in exact.items()}
    indices = {str(index): index for index in exact.values()}
    return lambda text: exact.get(text, loose.get(_loose(text), indices.get(text)))


def _loose(label: str) -> str:
    return label.replace("_", " ").casefold()
