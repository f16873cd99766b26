"""The commands of `portal`, by family; `portal.cli` puts them together."""
