"""The language model: one door, a hard daily budget, a cache that is also the replay."""
