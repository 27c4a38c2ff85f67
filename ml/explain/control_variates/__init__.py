"""Control variates: the part of a game that a fitted game explains does not depend on the draw of coalitions.

A Gaussian process is fitted to the values sampled so far (Rasmussen & Williams 2006, chapter 2). A method's answer for
the *fitted* game is computed exactly and costs no evaluations: this is Bayesian quadrature (O'Hagan 1991). What the
process cannot explain counts as part of the game, independent between coalitions: so the fit passes through the
samples, and only coalitions that were not sampled are uncertain.

Games are not drawn from a process, so its posterior deviations alone do not measure the error. The jackknife does: how
much the answer changes when a sample is left out, which has a closed form. For a game drawn from the process both are
known: the posterior variance, and the changes that are expected. So the posterior variance of an answer is multiplied
by the ratio of the changes that are seen to those that are expected: the variance of the process is estimated by
cross-validation (Bachoc 2013), for each answer with the weights that samples have in it. `optimism` measures how much
the kernel overfits, and whether it suits few samples by accident. The kernels that it fits to halves show how much the
choice of the kernel changes an answer.

A fit that smooths too much is off alike in all draws, and leaving out a sample does not show it. But the samples that
are left out show by how much the fit misses others. Where it is sure enough, what many answers miss alike corrects them
(`missed`), and the rest counts as an error. If few samples hold most of what the fit misses, the errors have few
degrees of freedom.

The rows of a target are games other than the sum that the kernel was fitted to. Their answers have the same weights,
and their errors come from their own residuals.

Language models' values are dominated by a few features and their interactions, which the kernel of `covariance` models.
"""
