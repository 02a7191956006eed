"""Configuration: `recipe=NAME|PATH key=value …` to one checked, frozen `RunConfig`, without importing torch."""

from zoft.config.console import guarded, is_first_process
from zoft.config.load import RunConfig, known_settings, load_config
from zoft.config.recipes import Recipe, all_recipes, packaged_folder, read_recipe
from zoft.config.run import RecipeNotes, RunSettings

__all__ = [
    "Recipe",
    "RecipeNotes",
    "RunConfig",
    "RunSettings",
    "all_recipes",
    "guarded",
    "is_first_process",
    "known_settings",
    "load_config",
    "packaged_folder",
    "read_recipe",
]
