"""The search of EKG: scores, teacher, and a cache of module outputs."""
