"""`glassworks publish`: a trained model as a folder for others, with its card, its origin and the digest of every file."""
