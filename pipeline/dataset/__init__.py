"""What is to be explained: dataset layouts, the manifest, its labels."""
