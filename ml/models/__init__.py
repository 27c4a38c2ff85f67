"""Language models: the protocol that everything else sees (`base`), its implementations, and how they are loaded."""
