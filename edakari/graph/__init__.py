"""From a network to its graph: one forward pass in which every operator says how axes flow."""
