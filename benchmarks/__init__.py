"""One folder a claim: a card, a script, a result."""
