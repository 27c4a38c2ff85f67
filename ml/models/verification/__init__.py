"""What a model may use, found by measuring when it is loaded."""
