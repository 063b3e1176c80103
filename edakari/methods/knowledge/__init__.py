"""The ensemble that EKG searches with, and what its candidates share."""
