"""What a model file says of itself: manifest, scan, files of other tools, class names."""
