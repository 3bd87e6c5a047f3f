import subprocess
import sys

import numpy as np
import pytest

from pipeline.stream.explained import Explained, SourceState


def of_shapes(spatial, temporal):
    return Explained(
        stream="a",
        window=0,
        start_s=0.0,
        end_s=1.0,
        frame_time_s=np.zeros(2),
        spatial=np.zeros(spatial, np.float32),
        temporal=np.zeros(temporal, np.float32),
        top=(("push", 0.5),),
        newest_frame_s=0.0,
        n_skipped=0,
        n_frames_dropped=0,
    )


def test_maps_that_do_not_belong_together_are_refused():
    assert of_shapes((2, 3, 3), (2,)).spatial.shape == (2, 3, 3)
    with pytest.raises(ValueError, match=r"\(2, 3, 3\) and temporal \(3,\)"):
        of_shapes((2, 3, 3), (3,))


def test_states_are_their_names():
    assert [str(state) for state in SourceState] == ["live", "late", "stalled", "lost", "ended"]


def test_viewers_load_no_torch():
    code = "import sys, pipeline.stream.explained; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
