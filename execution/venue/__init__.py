"""The embedded venue: a local server speaking Alpaca, Polygon and Anthropic over a market of ours."""
