"""Sparse autoencoders: configuration, model, training, and the SAELens folder format."""

from __future__ import annotations
