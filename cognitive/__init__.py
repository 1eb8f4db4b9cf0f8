"""What happened, how well we judge ourselves, when we fail, and why: evidence that may only make us more careful."""
