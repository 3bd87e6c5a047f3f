"""Synthetic actions with ground truth: scenes, videos in Kinetics' layouts, the small model."""
