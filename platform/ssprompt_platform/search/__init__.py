"""The search for hyperparameters: space, searcher, trials."""
