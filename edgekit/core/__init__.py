"""The nouns: model, samples, recipe, target, artifact, report, and how they are read and written."""
