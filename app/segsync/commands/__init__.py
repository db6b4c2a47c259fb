"""The commands of `segsync`, by what they work on."""
