"""Readout by an attentive pooler: one query attends to all tokens, and is what is classified."""

from torch import Tensor, nn
from transformers import PreTrainedModel

from pipeline.attention import capture_rows
from pipeline.models.adapter import Explanation, Geometry
from pipeline.staa import pooled_attention

_QUERY = slice(0, 1)


def explain_pooler(
    model: PreTrainedModel, pooler: nn.Module, pixel_values: Tensor, geometry: Geometry
) -> Explanation:
    """Predict, and attribute by the row of the pooler's query; see `Adapter.explain`.

    Parameters
    ----------
    pooler
        The model's attention module whose query 0 is read; it runs on `pipeline.attention.attend`.
    """
    with capture_rows({"pooler": (pooler, _QUERY)}) as rows:
        logits = model(pixel_values_videos=pixel_values).logits
    joint = pooled_attention(rows["pooler"][:, :, 0])
    # VideoPrism's logits keep the axis of the query: (clips, 1, classes).
    return Explanation(logits.flatten(1), joint.reshape(len(joint), geometry.n_times, -1))
