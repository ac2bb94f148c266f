"""Sparsity where data are pictures: so far super-resolution, the ground on which sparse nets from scratch are tried."""
