"""Models, attention, perturbation and explanation. Imports none of Gloss's other packages."""

from ml.spin import wait_patiently

# Here, because whatever runs a model imports this package first, before torch loads OpenMP.
wait_patiently()
