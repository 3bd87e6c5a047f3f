"""The processor of a checkpoint: how frames become what the model takes.

transformers' processors load more than its models do, so they are loaded where one is read. No
process that only runs a model needs any.
"""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from transformers import AutoImageProcessor
from transformers.models.auto.video_processing_auto import get_video_processor_config
from transformers.utils import IMAGE_PROCESSOR_NAME, PROCESSOR_NAME, VIDEO_PROCESSOR_NAME

from pipeline.errors import ModelError
from pipeline.models.checkpoint_files import check_processor, read_json
from pipeline.models.weight_files import find_file

_PROCESSOR_FILES = (IMAGE_PROCESSOR_NAME, VIDEO_PROCESSOR_NAME, PROCESSOR_NAME)

_VIDEO_PROCESSORS = {
    "LlavaOnevisionVideoProcessor": "llava_onevision",  # VideoPrism's
    "TimesformerVideoProcessor": "timesformer",
    "VideoMAEVideoProcessor": "videomae",
    "VivitVideoProcessor": "vivit",
    "VJEPA2VideoProcessor": "vjepa2",
}
"""Model whose module has the class, by the ``video_processor_type`` of a checkpoint's processor
file. A class is imported from that module because, without torchvision, transformers itself hands
out stand-ins that raise."""


def processor_parameters(name: str, revision: str | None) -> dict[str, Any]:
    """Parameters of a checkpoint's image processor, or if it has none, of its video processor.

    The class decides what the file leaves out, and V-JEPA 2's class ignores some of what its file
    says. transformers' video processors need torchvision to run, but not to be constructed.

    Raises
    ------
    ModelError
        If it has no processor, or one with a value that can't be used.
    ValueError
        If its video processor isn't one that is supported. transformers raises errors of its own.
    """
    files = {file: find_file(name, file, revision) for file in _PROCESSOR_FILES}
    if not any(files.values()):
        raise ModelError(
            f"model: {name!r} can't be loaded: it has no {_PROCESSOR_FILES[0]}; add the one of the "
            "checkpoint that it was trained from, which says how frames are resized"
        )
    for file, path in files.items():
        if path is not None:
            check_processor(read_json(path, name), file, name)
    try:
        processor = AutoImageProcessor.from_pretrained(
            name, revision=revision, trust_remote_code=False
        )
    except Exception:
        from_file: dict[str, Any] = get_video_processor_config(name, revision=revision)
        if "video_processor_type" not in from_file:
            raise
        return _video_parameters(from_file)
    image_parameters: dict[str, Any] = processor.to_dict()
    return image_parameters


def _video_parameters(from_file: Mapping[str, Any]) -> dict[str, Any]:
    kind = from_file["video_processor_type"]
    if kind not in _VIDEO_PROCESSORS:
        known = ", ".join(sorted(_VIDEO_PROCESSORS))
        raise ValueError(f"its video processor is a {kind}, which is not supported; known: {known}")
    model = _VIDEO_PROCESSORS[kind]
    module = import_module(f"transformers.models.{model}.video_processing_{model}")
    try:
        processor = getattr(module, kind)(**from_file)
    except (TypeError, LookupError, AttributeError) as error:
        raise ValueError(f"its {kind} can't take its parameters: {error}") from error
    parameters: dict[str, Any] = processor.to_dict()
    return parameters
