"""Synthetic actions with ground truth: scenes, video files in Kinetics' layouts, the small model."""
