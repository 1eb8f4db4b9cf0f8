"""Markets: daily bars of many symbols, simulated or real, and the path prices take inside a session."""
