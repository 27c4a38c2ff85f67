"""The methods that attribute: a module each."""
