"""Sources of models: a folder as it is, or a store, hub or archive whose bundles are fetched into a cache."""
