"""Numbers of tokens, training and schedules of token selectors."""
