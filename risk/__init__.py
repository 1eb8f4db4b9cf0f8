"""Every limit, the kill switch and exposure arithmetic. Sees core and config only."""
