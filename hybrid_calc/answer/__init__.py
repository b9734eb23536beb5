"""What the way of one geometry leaves behind: the step, the trajectory's memory, the counts."""
