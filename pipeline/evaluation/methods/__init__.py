"""Methods that explain a video model: each one function, and a line in `explainer.METHODS`."""
