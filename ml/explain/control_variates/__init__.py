"""Control variates: the part of a game that a fitted game explains does not depend on the draw of coalitions.

A Gaussian process is fitted to the values sampled so far (Rasmussen & Williams 2006, chapter 2). A method's answer for
the *fitted* game is computed exactly and costs no evaluations: this is Bayesian quadrature (O'Hagan 1991). What the
process cannot explain counts as part of the game, independent between coalitions: so the fit passes through the
samples, and only coalitions that were not sampled are uncertain.

Games are not drawn from a process, so its posterior deviations do not measure the error. The jackknife does: how much
the answer changes when a sample is left out, which has a closed form. The sum of these changes is the error, if it
falls with the square root of the samples as that of a mean. A fit learns faster, and fits to either half of the samples
show how much. An answer that depends on no sample does not change when one is left out: so where there are too many
answers to distinguish, the posterior deviation is computed as well, and the larger error counts. `optimism` measures
how much the kernel overfits, and whether it suits few samples by accident. The kernels that it fits to halves show how
much the choice of the kernel changes an answer.

A fit that smooths too much is off alike in all draws, and leaving out a sample does not show it. But the samples that
are left out show by how much the fit misses others. If their mean is beyond its own deviation, then the fit is biased.
And the parameters of the kernel are fitted too, which leaves a part of the deviation in the answers. If few samples
hold most of what the fit misses, the errors have few degrees of freedom.

The rows of a target are games other than the sum that the kernel was fitted to. The less alike they are, the more a
kernel may smooth too much and learn no faster than a mean, and the larger the error that is reported.

Language models' values are dominated by a few features and their interactions, which the kernel of `covariance` models.
"""
