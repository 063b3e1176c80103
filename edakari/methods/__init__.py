"""One pruning method a file."""
