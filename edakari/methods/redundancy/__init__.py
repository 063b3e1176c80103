"""Groups judged by trial, for DLRFC."""
