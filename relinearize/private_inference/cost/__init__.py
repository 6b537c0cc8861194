"""What private inference with a network costs, predicted from counts; no engine and no torch."""
