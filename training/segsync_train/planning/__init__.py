"""From a folder of labelled cases to the settings of a run: what the cases are like, and what follows from it."""
