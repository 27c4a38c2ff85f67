"""What looks inside a Hugging Face model: attention weights, gradients, value vectors."""
