"""Pictures in and out of files, and data sets."""
