"""Bytes, anywhere fsspec reaches, tried again while a storage fails."""
