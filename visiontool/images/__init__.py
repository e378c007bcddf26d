"""One picture: decoded, fitted, augmented, known again."""
