"""What explainers that sample share: growing batches, when to stop, standard errors, and surrogates."""
