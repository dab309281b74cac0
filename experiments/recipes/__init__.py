"""Two recipes for the same network, compared by cross-validation: tools/compare_recipes.py."""
