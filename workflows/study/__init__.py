"""``pipeline study``: variants of a recipe, each trained with several seeds."""
