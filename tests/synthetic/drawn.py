"""Scenes that are drawn for properties, on a canvas that is drawn in little time."""

from hypothesis import strategies as st

from pipeline.synthetic.scenes import ACTIONS, Canvas, Scene, sample_scene

SMALL = Canvas(width=128, height=96, fps=10, min_duration_s=1.0, max_duration_s=2.5)

drawn_scenes = st.builds(
    sample_scene,
    seed=st.integers(0, 2**32 - 1),
    index=st.integers(0, 10**6),
    action=st.sampled_from(ACTIONS),
    canvas=st.sampled_from([SMALL, None]),
)


def poses(scene: Scene, *, inside: bool = False):
    """Poses of the actor in every frame, or in those of the action's window alone."""
    start, end = scene.window
    frames = range(scene.n_frames)
    if inside:
        frames = [frame for frame in frames if start <= frame / scene.canvas.fps <= end]
    return [scene.actor_pose(frame) for frame in frames]
