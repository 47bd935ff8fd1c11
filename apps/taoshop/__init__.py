"""Use case 1: a shop whose checkout announces its orders on a topic."""
