"""Parts of a network that any strategy can take."""
