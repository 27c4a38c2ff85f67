"""Whether to rely on a result: faithfulness, doubts and the verdict."""
