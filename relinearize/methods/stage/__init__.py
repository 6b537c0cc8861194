"""What every training stage shares: its loop, sums of an epoch, learning rates, and what a search leaves."""
