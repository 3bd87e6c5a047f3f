"""Video classifiers of transformers: one adapter per family, found by the config's model type."""
