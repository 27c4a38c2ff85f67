"""Questions about many texts: global surrogates and bias probes."""
