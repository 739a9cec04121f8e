"""Run the commands: parse arguments, print results. Heavy imports happen inside functions."""
