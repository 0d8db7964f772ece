"""The service's own protocol: images in, classes and costs out."""
