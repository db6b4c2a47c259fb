"""Settings: YAML files checked into frozen models, for runs and for synthetic images."""
