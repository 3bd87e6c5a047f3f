"""A clip's way from bytes to the model's uint8 frames."""
