"""What a network costs, counted from its graph or measured."""
