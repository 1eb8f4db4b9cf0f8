"""Vendors, the bar store, quality, universe. Gives bars and facts; knows nothing of strategies or orders."""
