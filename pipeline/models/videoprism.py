"""VideoPrism (arXiv 2402.13217): attention over space, then over time, and an attentive pooler."""

from torch import Tensor
from transformers import PretrainedConfig, VideoPrismForVideoClassification

from pipeline.config import Method
from pipeline.errors import ModelError
from pipeline.models.adapter import Adapter, Explanation, Geometry, tubelet_geometry
from pipeline.models.pooler import explain_pooler
from pipeline.sampling import Sampling


class VideoPrism(Adapter):
    """`VideoPrismForVideoClassification`: A is the row of the pooler's query, `pooled_attention`.

    The encoder is factorised, as ViViT's model 2 is: its first blocks attend over the patches of a
    frame, its last over the times of a patch. The pooler's query then attends to all T * P tokens
    at once, so A is joint over space and time. What A gives a token at (t, p) is read there, but it
    was gathered: by the spatial blocks from all of frame t, by the temporal ones from all times of
    patch p. The pooler has no other layer: 0, or -1.

    The encoder's scores are capped, which SDPA can't do; `pipeline.attention.attend` does it some
    queries at a time. The pooler's aren't.
    """

    model_class = VideoPrismForVideoClassification

    @staticmethod
    def geometry(config: PretrainedConfig) -> Geometry:
        """Grid of a checkpoint; `ModelError` if its tubelets are of more than a frame."""
        if config.tubelet_size[0] != 1:
            raise ModelError(
                f"VideoPrism with tubelets of {config.tubelet_size[0]} frames is not supported: "
                "expected 1, as its temporal blocks take it to be"
            )
        return tubelet_geometry(config.num_frames, config.image_size, config.tubelet_size)

    @staticmethod
    def published_sampling(config: PretrainedConfig) -> Sampling:
        """Take frames evenly over the clip, as many as the model was trained on.

        16 for VideoPrism-B and 8 for -L (cards of google/videoprism-base-f16r288 and
        -large-f8r288). The cards name no stride: the classifiers are trained by their users.
        """
        return Sampling(kind="uniform", n_samples=config.num_frames)

    @staticmethod
    def n_layers(config: PretrainedConfig) -> int:
        """Count the pooler alone."""
        return 1

    def explain(self, pixel_values: Tensor, method: Method) -> Explanation:
        """Predict and attribute in one forward pass; see `Adapter.explain`."""
        pooler = self.model.head
        return explain_pooler(self.model, pooler, pixel_values, self.geometry(self.model.config))
