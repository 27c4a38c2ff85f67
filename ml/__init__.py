"""Models, attention, perturbation and explanation. Imports none of Gloss's other packages."""
