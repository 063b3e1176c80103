"""How much each coordinate of a group matters."""
