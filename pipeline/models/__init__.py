"""Video classifiers of transformers: one adapter per family, chosen by the config's model type."""
