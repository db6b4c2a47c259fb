"""A trained network as weights that `segsync` runs: graph, `model.json`, model card."""
