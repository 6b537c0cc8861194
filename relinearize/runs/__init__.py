"""Running stages in a row, keeping what they leave, and writing down what came out."""
