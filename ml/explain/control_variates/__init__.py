"""Control variates: what a fitted game explains of the model's values is not left to the draw of coalitions.

A Gaussian process is fitted to the values sampled so far (Rasmussen & Williams 2006, chapter 2). What a method answers
about the *fitted* game costs no evaluations, and it is computed exactly; that is Bayesian quadrature (O'Hagan 1991).
What the process cannot tell is taken for part of the game, independent from coalition to coalition: so every sample
counts as itself, and only the coalitions that were not sampled leave anything open.

No game is drawn from a process, so its own posterior deviations are no measure of the error. The jackknife is one: how
much the answer changes when a sample is left out, which has a closed form. Added up over the samples, these changes are
the error that is left if it falls as that of a mean does, with the square root of the samples. A fit learns faster than
that, and how much faster show the same changes in fits to either half of the samples. What no sample bears on, leaving
one out does not change: where answers are too many to be told apart, the process is asked as well, and the larger error
counts. Whether the kernel follows accidents of the samples says `optimism`.

A row of a target is another game than the sum that the kernel was fitted to. The less it is like that one, the more
counts what a kernel that does not suit it may do: smooth too much, and learn no faster than a mean.

Language models' values are dominated by a few features and their interactions: what the process expects of two
coalitions says `covariance`.
"""
