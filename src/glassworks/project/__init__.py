"""Help with a project: new data sets and experiments, a list of what is there, the state of a stage, a look at samples."""
