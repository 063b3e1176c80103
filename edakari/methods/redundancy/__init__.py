"""Trial cuts of groups, for DLRFC."""
