"""Records of runs that were never made, for tests of stores."""

from typing import Any

from pipeline.attribution.method import Method
from pipeline.clips.preprocess import Preprocessing
from pipeline.clips.sampling import Sampling
from pipeline.clips.views import ViewsConfig
from pipeline.store.record import (
    ModelFacts,
    ModelIdentity,
    RunIdentity,
    RunRecord,
    status_codes,
)
from pipeline.store.schema import StoreLayout


def identity_of(layout: StoreLayout, **given: Any) -> RunIdentity:
    """Identity of a run with a store of these sizes; ``given`` replaces what is made up."""
    made_up: dict[str, Any] = {
        "manifest": "3f2a",
        "model": ModelIdentity(weights="9c1e", config={"hidden_size": 768}),
        "sampling": Sampling("uniform", layout.n_frames),
        "preprocessing": Preprocessing(),
        "views": ViewsConfig(),
        "method": Method(name="staa-paper").resolved(12, pools_mean=False),
        "precision": "float32",
        "compile_model": False,
        "batch_size": 1,
        "rows_per_shard": layout.rows_per_shard,
        "attribution_version": 3,
    }
    return RunIdentity(**made_up | given)


def record_of(
    layout: StoreLayout, *, identity: RunIdentity | None = None, **given: Any
) -> RunRecord:
    """Record of a run with a store of these sizes; ``given`` replaces what is made up."""
    made_up: dict[str, Any] = {
        "layout": layout,
        "identity": identity or identity_of(layout),
        "config": {"manifest": "clips.parquet", "model": "org/model", "out": "run"},
        "class_names": ("a", "b"),
        "model": ModelFacts(name="org/model", revision=None, weights_digest="9c1e", family="vivit"),
        "layers": (11,),
        "status_codes": status_codes(),
        "packages": {"staa": "0.1.0"},
    }
    return RunRecord(**made_up | given)
