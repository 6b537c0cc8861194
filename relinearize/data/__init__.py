"""Image sets and batches: sources, splits, loaders whose every batch can be replayed from (seed, epoch, batch)."""
