"""Template filters of the shop pages."""
