"""From a plan to a smaller network, and to its masked twin."""
