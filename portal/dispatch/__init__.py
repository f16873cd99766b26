"""The dispatcher: the one process that calls the scheduler, weighs the evidence, and says how a job ended."""
