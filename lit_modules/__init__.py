"""Lightning's half: pruning before fit, and the recovery that follows."""
