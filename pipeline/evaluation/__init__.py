"""How far attributions can be trusted."""
