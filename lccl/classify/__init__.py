"""Classifying a folder or an archive of images, offline: resumable, and in a given time."""
